//! The journal against disks that tear, lose, fail and lie.

mod damage;
mod document;
mod matrix;
mod mutants;
mod properties;
mod world;
