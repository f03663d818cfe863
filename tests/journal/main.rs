//! Tests of the journal on disks that tear writes, lose data, fail and lie.

mod damage;
mod document;
mod inspection;
mod matrix;
mod mutants;
mod properties;
mod world;
