//! ruvlab
fn main() {}
