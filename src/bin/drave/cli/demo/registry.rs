//! A file with the process ids and endpoints of a demo, which `drave demo` writes and `drave kill` reads.

use crate::remote::failure::CliError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The endpoints and process ids of a running demo, stored as JSON in the directory for temporary files.
#[derive(Serialize, Deserialize, Debug, Default)]
pub struct DemoRegistry {
    /// The endpoints of the nodes, node 1 first.
    pub endpoints: Vec<String>,
    /// The process id of each node by node id. A dead node keeps the id of its last process.
    pub pids: BTreeMap<u64, i32>,
}

/// The error, with exit code 74, for a failed operation on the file at `path`.
pub fn io_error(path: &Path, error: &dyn std::fmt::Display) -> CliError {
    CliError { message: format!("{}: {error}", path.display()), code: 74 }
}

impl DemoRegistry {
    /// The path of the registry of the demo at this port.
    fn registry_path(base_port: u16) -> PathBuf {
        std::env::temp_dir().join(format!("drave-demo-{base_port}.json"))
    }

    /// Writes the registry of the demo at this port, over that of an earlier demo.
    pub fn write(&self, base_port: u16) -> Result<(), CliError> {
        let path = DemoRegistry::registry_path(base_port);
        let text = serde_json::to_vec(self).map_err(|error| io_error(&path, &error))?;
        std::fs::write(&path, text).map_err(|error| io_error(&path, &error))
    }

    /// Reads the registry of the demo at this port; fails with exit code 3 if there is none.
    pub fn read(base_port: u16) -> Result<DemoRegistry, CliError> {
        let path = DemoRegistry::registry_path(base_port);
        let no_demo_error = || CliError {
            message: format!(
                "no demo runs at port {base_port}\n  start one: drave demo · or name the first port of the one that runs: --base-port"
            ),
            code: 3,
        };
        let text = std::fs::read(&path).map_err(|_| no_demo_error())?;
        serde_json::from_slice(&text).map_err(|_| no_demo_error())
    }

    /// Removes the registry of the demo at this port.
    pub fn remove(base_port: u16) {
        let _may_not_exist = std::fs::remove_file(DemoRegistry::registry_path(base_port));
    }
}
