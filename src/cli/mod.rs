//! One verb a file.

pub mod bench;
pub mod children;
pub mod cluster;
pub mod command;
pub mod demo;
pub mod dump;
mod dump_commands;
pub mod dump_files;
mod dump_kept;
mod dump_reach;
mod dump_snapshots;
mod dump_words;
pub mod ending;
pub mod join;
pub mod journal_tour;
pub mod kv;
pub mod member;
pub mod recover;
pub mod serve;
pub mod sim;
pub mod snapshot;
pub mod snapshot_files;
pub mod status;
pub mod stored;
pub mod top;
pub mod trouble;
pub mod view;
