//! Cached keys and values in pages, what they cost, and what happens when they fill their budget.
//!
//! A page holds some tokens of all layers and heads in a type of its own, so cold pages can be
//! narrower than recent ones. Sequences map pages by a table and may share them: a page is written
//! only by its one owner, and a fork copies the page it goes on in. What a page takes is known from
//! its shape and types, so the bytes in use are exact.
mod admission;
mod cache;
mod error;
mod eviction;
mod head;
mod kind;
mod numbers;
mod page;
mod policy;
mod pool;
mod prefix;
mod pressure;
mod report;
mod spill;
mod table;
#[cfg(test)]
mod tests;

pub use cache::{CacheSettings, MOST_TRANSITIONS, PagedCache, Rotation};
pub use error::CacheError;
pub use head::CachedHead;
pub use kind::{CacheType, CacheTypes};
pub use page::PageShape;
pub use policy::{Policy, Stage, Tier};
pub use prefix::{PrefixKey, prefix_root};
pub use report::{CacheReport, Transition, TransitionKind};
