//! Recipes: what a person writes.
//!
//! `schema` holds the types. `load` reads bytes, `spans` knows where everything stands, `extends`
//! and `overlay` layer the files, `shape` holds the result against the types, `check` finds what
//! can be wrong between keys. Everything here works without weights.
mod check;
mod extends;
mod load;
mod loaded;
mod overlay;
mod path;
mod points;
mod problem;
mod reference;
pub mod schema;
mod shape;
mod source;
mod spans;
mod unimplemented;

pub use load::to_yaml;
pub use loaded::{Loaded, load};
pub use points::expand;
pub use reference::{json_schema, reference_page};
pub use schema::Recipe;
pub use unimplemented::unimplemented;
