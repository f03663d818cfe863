//! Tests of the journal on disks that tear writes, lose or damage data, and fail.

mod damage;
mod document;
mod inspection;
mod matrix;
mod mutants;
mod newer_format;
mod properties;
mod repair;
mod world;
