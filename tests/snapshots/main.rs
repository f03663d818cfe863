//! Tests of snapshots on disks that tear writes, lose or damage data, fail, and fill up.

mod damage;
mod document;
mod installing;
mod matrix;
mod world;
