//! Counts what a thread allocates, and how large the largest of it is.
#![expect(unsafe_code, reason = "an allocator's interface is unsafe; this one hands everything to the system's")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(bytes: usize) {
    COUNT.set(COUNT.get() + 1);
    LARGEST.set(LARGEST.get().max(bytes));
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Returns what a job returns, and how often this thread asked for memory in it.
pub(crate) fn during<T>(job: impl FnOnce() -> T) -> (T, usize) {
    let before = COUNT.get();
    let result = job();
    (result, COUNT.get() - before)
}

/// Returns what a job returns, and the bytes of the largest piece of memory this thread asked for in it.
pub(crate) fn largest_during<T>(job: impl FnOnce() -> T) -> (T, usize) {
    LARGEST.set(0);
    let result = job();
    (result, LARGEST.get())
}
