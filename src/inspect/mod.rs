//! Reads data directories offline: segments, snapshots and what they prove, without a running node.
//!
//! [`files`] finds and reads segments, [`walk`] visits their records in order, and [`record`] describes one record as
//! text. [`directory`] reads a whole data directory; [`replay`] rebuilds its log and checks it against Raft's
//! rules; [`cluster`] and [`commit_status`] compare several directories.

pub mod cluster;
pub mod commit_status;
pub mod configs;
pub mod directory;
pub mod files;
pub mod log;
pub mod log_start;
pub mod record;
pub mod record_kv;
pub mod record_text;
pub mod replay;
pub mod set_aside;
pub mod snapshots;
pub mod violation;
pub mod walk;
