//! `drave snapshot save` and `drave restore`: saves the state of a cluster to a file, and founds a new cluster from it.

use drave::api::Status;
use drave::machine::{Answer, Command};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use support::{Beside, Cluster, Said, drave, run, until};

mod support;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn expect(said: &Said, code: i32) {
    assert_eq!(said.code, Some(code), "{said:?}");
}

fn inspect(file: &Path) -> Said {
    run(&mut drave(&["snapshot", "inspect", text(file), "-o", "json"]))
}

fn restore(file: &Path, cluster: &Cluster) -> Said {
    let peers = format!("1={}", cluster.addresses[0]);
    run(&mut drave(&["restore", text(file), "--id", "1", "--peers", &peers, "--data", text(&cluster.data(0))]))
}

/// Saves the state of a node until no write happens meanwhile. Returns the header of the file and the node's status.
fn save_without_writes(cluster: &Cluster, n: usize, file: &Path) -> (serde_json::Value, Status) {
    let save = || {
        expect(&cluster.run(&["snapshot", "save", text(file), "--force", "--node", &(n + 1).to_string()]), 0);
        let (head, status) = (inspect(file).json(), cluster.status(n)?);
        (head["index"] == status.applied).then_some((head, status))
    };
    until("a save without a concurrent write", save, || cluster.logs())
}

/// A stopped single-node cluster and a file with its saved state.
fn stopped_cluster_and_backup() -> (Cluster, PathBuf) {
    let mut cluster = Cluster::start(1);
    cluster.leader();
    expect(&cluster.run(&["put", "lunch", "noodles"]), 0);
    let file = cluster.directory.path().join("saved");
    expect(&cluster.run(&["snapshot", "save", text(&file)]), 0);
    cluster.stop(0);
    (cluster, file)
}

#[test]
fn backup_under_load_restores_all_acknowledged_writes() {
    let cluster = Cluster::start(3);
    cluster.leader();
    let mut client = cluster.client();
    let mut incr = || match Answer::decode(client.execute(&Command::Incr { key: b"n", by: 1 }.encode()).unwrap().answer)
    {
        Ok(Answer::Number(number)) => number,
        other => panic!("{other:?}"),
    };
    let words = ["bench", "put", "--clients", "2", "--inflight", "8", "--duration", "5s", "--warmup", "0s"];
    let mut flood = Beside::start(cluster.directory.path(), "flood", &mut cluster.drave(&words));
    let (mut saves, mut acknowledged) = (0, 0);
    let file = cluster.directory.path().join("under-load");
    while flood.is_running() {
        acknowledged = incr();
        let said = cluster.run(&["snapshot", "save", text(&file), "--force"]);
        expect(&said, 0);
        saves += 1;
    }
    assert!(saves > 0);
    assert_eq!(flood.end().code, Some(0), "{}", cluster.logs());
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "only the owner may read a file of all keys and values");

    let said = inspect(&file);
    expect(&said, 0);
    let (head, mut new) = (said.json(), Cluster::prepare(2));
    new.founders = 1;
    let said = restore(&file, &new);
    expect(&said, 0);
    assert!(said.out.contains("n1 alone is a new cluster") && said.out.contains("next: drave serve"), "{said:?}");
    new.spawn(0);
    let leads = || new.status(0).filter(|status| status.leader == Some(1) && status.applied == status.last);
    let status = until("the restored node leads", leads, || new.logs());
    assert_eq!(head["digest"], status.digest, "{head}");
    assert!(status.applied > 1_000_000_000_000, "the restored log reuses no position: {}", status.applied);
    assert!(!head["cluster"].as_str().unwrap().starts_with(&status.cluster[..8]), "{head}");
    let n: i64 = new.run(&["get", "n"]).out.trim().parse().unwrap();
    assert!(n >= acknowledged, "{n} of {acknowledged} acknowledged before the save began");
    new.spawn(1);
    let rises =
        || new.status(0).filter(|status| status.members.iter().filter(|member| member.kind == "voter").count() == 2);
    until("the second node joins", rises, || new.logs());
    expect(&new.run(&["put", "lunch", "soup"]), 0);
    new.agree();

    // Without writes meanwhile, the file has the same digest as the node.
    let (head, status) = save_without_writes(&cluster, 1, &file);
    assert_eq!((&head["digest"], &head["node"]), (&status.digest.into(), &2.into()), "{head}");
}

#[test]
fn snapshot_save_without_quorum_requires_local() {
    let mut cluster = Cluster::start(3);
    cluster.leader();
    expect(&cluster.run(&["put", "lunch", "noodles"]), 0);
    cluster.agree();
    (1..3).for_each(|n| cluster.kill(n));
    let file = cluster.directory.path().join("saved");
    let said = cluster.run(&["snapshot", "save", text(&file)]);
    expect(&said, 3);
    assert!(said.err.contains("nothing was saved") && !file.exists(), "{said:?}");
    assert!(!cluster.directory.path().join("saved.part").exists());
    expect(&cluster.run(&["snapshot", "save", text(&file), "--local", "-o", "json"]), 0);
    expect(&inspect(&file), 0);
    expect(&cluster.run(&["snapshot", "save", text(&cluster.directory.path().join("other")), "--node", "3"]), 3);
}

#[test]
fn snapshot_save_overwrites_only_with_force() {
    let cluster = Cluster::start(1);
    cluster.leader();
    expect(&cluster.run(&["put", "lunch", "noodles"]), 0);
    let file = cluster.directory.path().join("saved");
    std::fs::write(&file, "precious").unwrap();
    // The leftover of a killed attempt, readable by everyone.
    let part = cluster.directory.path().join("saved.part");
    std::fs::write(&part, vec![7; 1 << 16]).unwrap();
    let said = cluster.run(&["snapshot", "save", text(&file)]);
    expect(&said, 1);
    assert!(said.err.contains("exists already") && said.err.contains("--force"), "{said:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    {
        let held = std::fs::File::open(&part).unwrap();
        held.lock().unwrap();
        let said = cluster.run(&["snapshot", "save", text(&file), "--force"]);
        expect(&said, 1);
        assert!(said.err.contains("another process"), "{said:?}");
    }
    expect(&cluster.run(&["snapshot", "save", text(&file), "--force"]), 0);
    expect(&inspect(&file), 0);
    assert!(!part.exists());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let said = cluster.run(&["snapshot", "save", "/dev/null", "--force"]);
    expect(&said, 1);
    assert!(said.err.contains("not a file"), "{said:?}");
    expect(&cluster.run(&["snapshot", "save", text(&cluster.directory.path().join("no/where"))]), 74);
}

#[test]
fn damaged_file_fails_inspect_and_restore() {
    let (cluster, file) = stopped_cluster_and_backup();
    let whole = std::fs::read(&file).unwrap();
    let new = Cluster::prepare(1);
    let damaged = cluster.directory.path().join("damaged");
    let see = |bytes: &[u8]| {
        std::fs::write(&damaged, bytes).unwrap();
        let said = inspect(&damaged);
        expect(&said, 5);
        assert!(said.err.contains("is damaged: byte "), "{said:?}");
        expect(&restore(&damaged, &new), 5);
        assert!(!new.data(0).exists(), "a failed restore creates no directory");
    };
    for at in (0..whole.len()).step_by(whole.len() / 12) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        see(&bytes);
    }
    see(&whole[..whole.len() - 1]);
    see(&[whole.as_slice(), b"x"].concat());
    see(b"");
    expect(&restore(&cluster.directory.path().join("nowhere"), &new), 74);
    expect(&restore(&file, &new), 0);
}

#[test]
fn restore_rejects_directory_that_is_not_empty() {
    let (mut cluster, file) = stopped_cluster_and_backup();
    let said = restore(&file, &cluster);
    expect(&said, 78);
    assert!(said.err.contains("is not empty") && said.err.contains("--data"), "{said:?}");
    cluster.spawn(0);
    cluster.leader();
    let said = restore(&file, &cluster);
    expect(&said, 78);
    assert!(said.err.contains("in use by another process"), "{said:?}");
    assert_eq!(cluster.run(&["get", "lunch"]).out, "noodles");

    let mut new = Cluster::prepare(1);
    let restores = |peers: &str, data: &Path| {
        run(&mut drave(&["restore", text(&file), "--id", "1", "--peers", peers, "--data", text(data)]))
    };
    let said = restores("1=a:1,2=b:1", &new.data(0));
    expect(&said, 2);
    assert!(said.err.contains("begins with n1 alone"), "{said:?}");
    expect(&restores("2=b:1", &new.data(0)), 2);
    expect(&restores("1=0.0.0.0:1", &new.data(0)), 2);
    assert!(!new.data(0).exists());
    // A new file system with the leftover of an interrupted attempt.
    std::fs::create_dir_all(new.data(0).join("lost+found")).unwrap();
    std::fs::create_dir_all(new.data(0).join("recovered/wal")).unwrap();
    expect(&restore(&file, &new), 0);
    expect(&restore(&file, &new), 78);
    new.spawn(0);
    new.leader();
    assert_eq!(new.run(&["get", "lunch"]).out, "noodles");
}

/// Starts a proxy that cuts each connection once more than `after` bytes have come back.
fn cutting_proxy(to: String, after: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for caller in listener.incoming() {
            let (mut caller, mut node) = (caller.unwrap(), TcpStream::connect(&to).unwrap());
            let (mut asks, mut asked) = (caller.try_clone().unwrap(), node.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut asks, &mut asked));
            thread::spawn(move || {
                let (mut buffer, mut passed) = (vec![0; 1 << 16], 0);
                while let Ok(n @ 1..) = node.read(&mut buffer)
                    && passed < after
                    && caller.write_all(&buffer[..n]).is_ok()
                {
                    passed += n;
                }
                let _gone_or_not = (caller.shutdown(Shutdown::Both), node.shutdown(Shutdown::Both));
            });
        }
    });
    address
}

#[test]
fn snapshot_save_resumes_after_lost_connection() {
    let cluster = Cluster::start(1);
    cluster.leader();
    let mut client = cluster.client();
    let value = vec![b'x'; 512 << 10];
    for key in 0..16u8 {
        client.execute(&Command::Put { key: &[key], value: &value }.encode()).unwrap();
    }
    let file = cluster.directory.path().join("saved");
    let through = cutting_proxy(cluster.addresses[0].clone(), 1 << 20);
    expect(&cluster.run(&["snapshot", "save", text(&file), "--endpoints", &through]), 0);
    let (broken, whole) = (inspect(&file).json(), save_without_writes(&cluster, 0, &file).0);
    assert_eq!((&broken["digest"], &broken["keys"]), (&whole["digest"], &16.into()), "{broken}");
}
