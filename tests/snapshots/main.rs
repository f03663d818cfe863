//! Snapshots on disks that tear, lose, fail, fill up and lie.

mod damage;
mod document;
mod installing;
mod matrix;
mod world;
