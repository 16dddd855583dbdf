//! The tests of the example `char_rnn`. They are taken in from here, since an example that is built for its tests is not
//! built as the program that `examples.rs` runs.
#![allow(dead_code)] // the example's own `main`

#[path = "../examples/char_rnn.rs"]
mod char_rnn;
