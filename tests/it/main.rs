//! Everything through the public interface, in one binary: linking is what takes long.
mod recipes;
