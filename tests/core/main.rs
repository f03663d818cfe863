//! The algorithm on bare cores: the paper sentence by sentence, changes of members as stories, and one node in trouble.

mod cluster;
mod faults;
mod members;
mod paper;
mod promises;
mod voters;
