//! Variables, and what reads and assigns them.
//!
//! A variable is an actor; a kernel that reads or writes one claims its turn and so has it for itself. Reading
//! shares the value's buffer and writing never touches a shared one, so a value that was read stays what it was.

pub mod access;
pub mod arith;
pub mod assign;
pub mod gather;
pub mod resource;
mod rows;
pub mod scatter;
pub mod scatter_nd;
pub mod session;
pub mod strided_assign;
#[cfg(test)]
mod tests;
pub mod variable;
