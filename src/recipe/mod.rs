//! Recipes: what a person writes. `schema` holds the types, `load` reads them, `overlay` layers
//! them, `check` finds every problem a recipe can have without looking at weights.
pub mod schema;

pub use schema::Recipe;
