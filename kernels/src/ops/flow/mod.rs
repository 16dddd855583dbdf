//! Control flow: the primitives of conditionals and loops, stacks and tensor arrays.
//!
//! The executor gives the primitives their meaning (dead tokens, frames, iterations) and never calls the kernels of
//! most of them; the kernels here say what a primitive does with live inputs, for those who run a node alone.

pub mod choice;
pub mod exchange;
pub mod frame;
pub mod functional;
pub mod optional;
pub mod reference;
pub mod stack;
pub mod tensor_array;
pub mod trigger;
