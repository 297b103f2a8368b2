//! What threads share memory by. The files that name it here alone are compiled once more by the test that
//! tries every order of their threads' accesses (`tests/it/registry_model.rs`), with loom's in place of these.
pub(super) use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock, TryLockError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread::yield_now,
};
