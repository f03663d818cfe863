//! A file with the processes and endpoints of a demo, written by the demo and read by `drave kill`.

use crate::remote::failure::CliError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The endpoints and processes of a demo.
#[derive(Serialize, Deserialize, Debug, Default)]
pub struct Register {
    /// The endpoints of the nodes, node 1 first.
    pub endpoints: Vec<String>,
    /// The process id of each node, that of its last process.
    pub pids: BTreeMap<u64, i32>,
}

/// An error about this path.
pub fn io(path: &Path, error: &dyn std::fmt::Display) -> CliError {
    CliError { what: format!("{}: {error}", path.display()), code: 74 }
}

impl Register {
    fn path(base_port: u16) -> PathBuf {
        std::env::temp_dir().join(format!("drave-demo-{base_port}.json"))
    }

    /// Writes the register of the demo at this port.
    pub fn write(&self, base_port: u16) -> Result<(), CliError> {
        let path = Register::path(base_port);
        let text = serde_json::to_vec(self).map_err(|error| io(&path, &error))?;
        std::fs::write(&path, text).map_err(|error| io(&path, &error))
    }

    /// Reads the register of the demo at this port; fails with exit code 3 if there is none.
    pub fn read(base_port: u16) -> Result<Register, CliError> {
        let path = Register::path(base_port);
        let none = || CliError {
            what: format!(
                "no demo runs at port {base_port}\n  start one: drave demo · or name the first port of the one that runs: --base-port"
            ),
            code: 3,
        };
        let text = std::fs::read(&path).map_err(|_| none())?;
        serde_json::from_slice(&text).map_err(|_| none())
    }

    /// Removes the register of the demo at this port.
    pub fn remove(base_port: u16) {
        // It may have been removed already.
        let _gone = std::fs::remove_file(Register::path(base_port));
    }
}
