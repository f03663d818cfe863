//! The requests to a cluster, and its replies.
//!
//! A request that changes state is an [`Op`]: the client encodes it, and its bytes go into the log unchanged. Such a
//! request is done, refused (*it had no effect*), or its outcome is unknown ([`Reply::Unknown`]): it may have taken
//! effect, or may still take effect. A retry in the same session under the same number learns the outcome, and executes
//! nothing twice.

pub mod figures;
mod log_level;
mod op;
mod peer_status;
mod request;
mod status;
mod version_status;

pub use log_level::{LogLevel, LogLevelInForce, LogLevelRequest};
pub use op::{Op, Outcome};
pub use peer_status::PeerStatus;
pub use request::{Consistency, Refusal, Reply, Request};
pub use status::{
    DiskStatus, LogStatus, MemberStatus, RepairStatus, RoleName, ScrubFinding, ScrubStatus, StageStatus, Status,
    TimingStatus,
};
pub use version_status::{MemberVersions, UpgradeStatus, VersionStatus};
