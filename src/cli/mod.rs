//! One verb a file.

pub mod command;
pub mod serve;
pub mod sim;
pub mod trouble;
