//! `drave snapshot save` and `drave restore`: saves the state of a cluster to a file, and founds a new cluster from it.

use drave::api::Status;
use drave::machine::{Answer, Command};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use support::{BackgroundProgram, Cluster, ProgramOutput, drave_command, run, wait_until};

mod support;

fn path_str(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn expect_exit_code(output: &ProgramOutput, code: i32) {
    assert_eq!(output.code, Some(code), "{output:?}");
}

fn inspect_snapshot(file: &Path) -> ProgramOutput {
    run(&mut drave_command(&["snapshot", "inspect", path_str(file), "-o", "json"]))
}

fn run_restore(file: &Path, cluster: &Cluster) -> ProgramOutput {
    let peers = format!("1={}", cluster.addresses[0]);
    run(&mut drave_command(&[
        "restore",
        path_str(file),
        "--id",
        "1",
        "--peers",
        &peers,
        "--data",
        path_str(&cluster.data_dir(0)),
    ]))
}

/// Saves the state of a node, and repeats the save until no write happens during it. Returns the header of the saved
/// file and the node's status.
fn save_without_writes(cluster: &Cluster, n: usize, file: &Path) -> (serde_json::Value, Status) {
    let save = || {
        expect_exit_code(
            &cluster.run(&["snapshot", "save", path_str(file), "--force", "--node", &(n + 1).to_string()]),
            0,
        );
        let (header, status) = (inspect_snapshot(file).json(), cluster.status(n)?);
        (header["index"] == status.applied).then_some((header, status))
    };
    wait_until("a save without a concurrent write", save, || cluster.logs())
}

/// A stopped single-node cluster and a file with its saved state.
fn stopped_cluster_and_backup() -> (Cluster, PathBuf) {
    let mut cluster = Cluster::start(1);
    cluster.wait_for_leader();
    expect_exit_code(&cluster.run(&["put", "lunch", "noodles"]), 0);
    let backup_path = cluster.directory.path().join("saved");
    expect_exit_code(&cluster.run(&["snapshot", "save", path_str(&backup_path)]), 0);
    cluster.stop(0);
    (cluster, backup_path)
}

#[test]
fn backup_under_load_restores_all_acknowledged_writes() {
    let cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let mut client = cluster.client();
    let mut increment =
        || match Answer::decode(client.execute(&Command::Incr { key: b"n", by: 1 }.encode()).unwrap().answer) {
            Ok(Answer::Number(number)) => number,
            other => panic!("{other:?}"),
        };
    let bench_args = ["bench", "put", "--clients", "2", "--inflight", "8", "--duration", "5s", "--warmup", "0s"];
    let mut bench =
        BackgroundProgram::start(cluster.directory.path(), "flood", &mut cluster.drave_command(&bench_args));
    let (mut saves, mut acknowledged) = (0, 0);
    let file = cluster.directory.path().join("under-load");
    while bench.is_running() {
        acknowledged = increment();
        let output = cluster.run(&["snapshot", "save", path_str(&file), "--force"]);
        expect_exit_code(&output, 0);
        saves += 1;
    }
    assert!(saves > 0);
    assert_eq!(bench.wait_with_output().code, Some(0), "{}", cluster.logs());
    let file_mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(file_mode & 0o777, 0o600, "only the owner may read a file of all keys and values");

    let output = inspect_snapshot(&file);
    expect_exit_code(&output, 0);
    let (header, mut new_cluster) = (output.json(), Cluster::prepare(2));
    new_cluster.founder_count = 1;
    let output = run_restore(&file, &new_cluster);
    expect_exit_code(&output, 0);
    assert!(output.out.contains("n1 alone is a new cluster") && output.out.contains("next: drave serve"), "{output:?}");
    new_cluster.spawn(0);
    let restored_leader =
        || new_cluster.status(0).filter(|status| status.leader == Some(1) && status.applied == status.last);
    let status = wait_until("the restored node leads", restored_leader, || new_cluster.logs());
    assert_eq!(header["digest"], status.digest, "{header}");
    assert!(status.applied > 1_000_000_000_000, "the restored log reuses no position: {}", status.applied);
    assert!(!header["cluster"].as_str().unwrap().starts_with(&status.cluster[..8]), "{header}");
    let n: i64 = new_cluster.run(&["get", "n"]).out.trim().parse().unwrap();
    assert!(
        n >= acknowledged,
        "the restored counter is {n}, but {acknowledged} increments were acknowledged before the save began"
    );
    new_cluster.spawn(1);
    let status_with_two_voters = || {
        new_cluster
            .status(0)
            .filter(|status| status.members.iter().filter(|member| member.kind == "voter").count() == 2)
    };
    wait_until("the second node joins", status_with_two_voters, || new_cluster.logs());
    expect_exit_code(&new_cluster.run(&["put", "lunch", "soup"]), 0);
    new_cluster.wait_for_convergence();

    // No write happens during the save, so the file has the same digest as the node.
    let (header, status) = save_without_writes(&cluster, 1, &file);
    assert_eq!((&header["digest"], &header["node"]), (&status.digest.into(), &2.into()), "{header}");
}

#[test]
fn snapshot_save_without_quorum_requires_local() {
    let mut cluster = Cluster::start(3);
    cluster.wait_for_leader();
    expect_exit_code(&cluster.run(&["put", "lunch", "noodles"]), 0);
    cluster.wait_for_convergence();
    (1..3).for_each(|n| cluster.kill(n));
    let file = cluster.directory.path().join("saved");
    let output = cluster.run(&["snapshot", "save", path_str(&file)]);
    expect_exit_code(&output, 3);
    assert!(output.err.contains("nothing was saved") && !file.exists(), "{output:?}");
    assert!(!cluster.directory.path().join("saved.part").exists());
    expect_exit_code(&cluster.run(&["snapshot", "save", path_str(&file), "--local", "-o", "json"]), 0);
    expect_exit_code(&inspect_snapshot(&file), 0);
    expect_exit_code(
        &cluster.run(&["snapshot", "save", path_str(&cluster.directory.path().join("other")), "--node", "3"]),
        3,
    );
}

#[test]
fn snapshot_save_overwrites_only_with_force() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    expect_exit_code(&cluster.run(&["put", "lunch", "noodles"]), 0);
    let file = cluster.directory.path().join("saved");
    std::fs::write(&file, "precious").unwrap();
    // Another save was killed and has left a partial file, which every user can read.
    let partial_path = cluster.directory.path().join("saved.part");
    std::fs::write(&partial_path, vec![7; 1 << 16]).unwrap();
    let output = cluster.run(&["snapshot", "save", path_str(&file)]);
    expect_exit_code(&output, 1);
    assert!(output.err.contains("exists already") && output.err.contains("--force"), "{output:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    {
        let locked_file = std::fs::File::open(&partial_path).unwrap();
        locked_file.lock().unwrap();
        let output = cluster.run(&["snapshot", "save", path_str(&file), "--force"]);
        expect_exit_code(&output, 1);
        assert!(output.err.contains("another process"), "{output:?}");
    }
    expect_exit_code(&cluster.run(&["snapshot", "save", path_str(&file), "--force"]), 0);
    expect_exit_code(&inspect_snapshot(&file), 0);
    assert!(!partial_path.exists());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let output = cluster.run(&["snapshot", "save", "/dev/null", "--force"]);
    expect_exit_code(&output, 1);
    assert!(output.err.contains("not a file"), "{output:?}");
    expect_exit_code(&cluster.run(&["snapshot", "save", path_str(&cluster.directory.path().join("no/where"))]), 74);
}

#[test]
fn damaged_file_fails_inspect_and_restore() {
    let (cluster, file) = stopped_cluster_and_backup();
    let saved_bytes = std::fs::read(&file).unwrap();
    let new_cluster = Cluster::prepare(1);
    let damaged_path = cluster.directory.path().join("damaged");
    let expect_damage_reported = |bytes: &[u8]| {
        std::fs::write(&damaged_path, bytes).unwrap();
        let output = inspect_snapshot(&damaged_path);
        expect_exit_code(&output, 5);
        assert!(output.err.contains("is damaged: byte "), "{output:?}");
        expect_exit_code(&run_restore(&damaged_path, &new_cluster), 5);
        assert!(!new_cluster.data_dir(0).exists(), "a failed restore creates no directory");
    };
    for offset in (0..saved_bytes.len()).step_by(saved_bytes.len() / 12) {
        let mut damaged_bytes = saved_bytes.clone();
        damaged_bytes[offset] ^= 1;
        expect_damage_reported(&damaged_bytes);
    }
    expect_damage_reported(&saved_bytes[..saved_bytes.len() - 1]);
    expect_damage_reported(&[saved_bytes.as_slice(), b"x"].concat());
    expect_damage_reported(b"");
    expect_exit_code(&run_restore(&cluster.directory.path().join("nowhere"), &new_cluster), 74);
    expect_exit_code(&run_restore(&file, &new_cluster), 0);
}

#[test]
fn restore_rejects_directory_that_is_not_empty() {
    let (mut cluster, file) = stopped_cluster_and_backup();
    let output = run_restore(&file, &cluster);
    expect_exit_code(&output, 78);
    assert!(output.err.contains("is not empty") && output.err.contains("--data"), "{output:?}");
    cluster.spawn(0);
    cluster.wait_for_leader();
    let output = run_restore(&file, &cluster);
    expect_exit_code(&output, 78);
    assert!(output.err.contains("in use by another process"), "{output:?}");
    assert_eq!(cluster.run(&["get", "lunch"]).out, "noodles");

    let mut new_cluster = Cluster::prepare(1);
    let restore_with_peers = |peers: &str, data: &Path| {
        run(&mut drave_command(&["restore", path_str(&file), "--id", "1", "--peers", peers, "--data", path_str(data)]))
    };
    let output = restore_with_peers("1=a:1,2=b:1", &new_cluster.data_dir(0));
    expect_exit_code(&output, 2);
    assert!(output.err.contains("begins with n1 alone"), "{output:?}");
    expect_exit_code(&restore_with_peers("2=b:1", &new_cluster.data_dir(0)), 2);
    expect_exit_code(&restore_with_peers("1=0.0.0.0:1", &new_cluster.data_dir(0)), 2);
    assert!(!new_cluster.data_dir(0).exists());
    // The data directory is the root of a new file system (`lost+found`), and holds the partial result of an
    // interrupted restore. The restore accepts both.
    std::fs::create_dir_all(new_cluster.data_dir(0).join("lost+found")).unwrap();
    std::fs::create_dir_all(new_cluster.data_dir(0).join("recovered/wal")).unwrap();
    expect_exit_code(&run_restore(&file, &new_cluster), 0);
    expect_exit_code(&run_restore(&file, &new_cluster), 78);
    new_cluster.spawn(0);
    new_cluster.wait_for_leader();
    assert_eq!(new_cluster.run(&["get", "lunch"]).out, "noodles");
}

/// Starts a proxy that cuts each connection once more than `cut_after_bytes` bytes of responses were forwarded.
fn start_cutting_proxy(node_address: String, cut_after_bytes: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut node) = (client.unwrap(), TcpStream::connect(&node_address).unwrap());
            let (mut client_reader, mut node_writer) = (client.try_clone().unwrap(), node.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut client_reader, &mut node_writer));
            thread::spawn(move || {
                let (mut buffer, mut forwarded_bytes) = (vec![0; 1 << 16], 0);
                while let Ok(n @ 1..) = node.read(&mut buffer)
                    && forwarded_bytes < cut_after_bytes
                    && client.write_all(&buffer[..n]).is_ok()
                {
                    forwarded_bytes += n;
                }
                let _may_be_closed = (client.shutdown(Shutdown::Both), node.shutdown(Shutdown::Both));
            });
        }
    });
    address
}

#[test]
fn snapshot_save_resumes_after_lost_connection() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let mut client = cluster.client();
    let value = vec![b'x'; 512 << 10];
    for key in 0..16u8 {
        client.execute(&Command::Put { key: &[key], value: &value }.encode()).unwrap();
    }
    let file = cluster.directory.path().join("saved");
    let proxy_address = start_cutting_proxy(cluster.addresses[0].clone(), 1 << 20);
    expect_exit_code(&cluster.run(&["snapshot", "save", path_str(&file), "--endpoints", &proxy_address]), 0);
    let (resumed_header, full_header) = (inspect_snapshot(&file).json(), save_without_writes(&cluster, 0, &file).0);
    assert_eq!(
        (&resumed_header["digest"], &resumed_header["keys"]),
        (&full_header["digest"], &16.into()),
        "{resumed_header}"
    );
}
