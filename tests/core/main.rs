//! The algorithm on bare cores: the paper sentence by sentence, and changes of members as stories.

mod cluster;
mod members;
mod paper;
