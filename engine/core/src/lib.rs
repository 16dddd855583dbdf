//! The vocabulary of Actorflow. (WIP)
pub mod parallel;
