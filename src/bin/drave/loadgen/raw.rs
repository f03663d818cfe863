//! Baselines of the hardware: plain writes with fdatasync, and a ping-pong over loopback, without the server in
//! between. Reports compare a cluster against them.

use super::args::Bench;
use crate::output::outln;
use crate::remote::failure::CliError;
use drave::disk::fs::FsDisk;
use drave::disk::{Disk, DiskFile};
use hdrhistogram::Histogram;
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

fn failed(what: &str) -> impl Fn(io::Error) -> CliError + '_ {
    move |error| CliError { what: format!("{what}: {error}"), code: 74 }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

fn us(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    (histogram.value_at_quantile(quantile) as f64 / 100.0).round() / 10.0
}

/// `drave bench disk`: appends to a file whose blocks were written before, and syncs each write.
pub fn disk(args: &Bench) -> Result<(), CliError> {
    let place = args.dir.display().to_string();
    let disk = FsDisk::at(&args.dir).map_err(failed(&place))?;
    if disk.is_in_memory() {
        eprintln!("warning: {place} lies in memory (tmpfs): these figures are not those of a disk");
    }
    let sizes = [args.value_size, 4 << 10, 64 << 10, 1 << 20];
    let span = args.duration / sizes.len() as u32;
    for (size, histogram) in syncs_of(&disk, &sizes, span).map_err(failed(&place))? {
        let (p50, p99, max) = (us(&histogram, 0.5), us(&histogram, 0.99), us(&histogram, 1.0));
        let rate = 1e6 / (histogram.mean() / 1000.0);
        if args.cluster.json() {
            outln!(
                "{}",
                json!({ "what": "disk", "bytes": size, "p50_us": p50, "p99_us": p99, "max_us": max, "syncs_per_s": rate })
            );
        } else {
            outln!(
                "write + fdatasync {size:>8} B · p50 {p50:>8.1} · p99 {p99:>8.1} · max {max:>8.1} µs · {rate:>7.0}/s"
            );
        }
    }
    Ok(())
}

/// Measures a plain write and sync of `size` bytes on this disk, in nanoseconds.
pub fn syncs_at(disk: &FsDisk, size: u64, span: Duration) -> io::Result<Histogram<u64>> {
    Ok(syncs_of(disk, &[size], span)?.pop().map_or_else(histogram, |(_, histogram)| histogram))
}

/// Measures each size for `span`, in a temporary file that is removed afterwards.
fn syncs_of(disk: &FsDisk, sizes: &[u64], span: Duration) -> io::Result<Vec<(u64, Histogram<u64>)>> {
    const NAME: &str = "drave-bench-disk.tmp";
    const ROOM: u64 = 64 << 20;
    if disk.list()?.iter().any(|name| name == NAME) {
        disk.remove(NAME)?;
    }
    let mut file = disk.create(NAME)?;
    let measured = file
        .allocate(ROOM)
        .and_then(|()| file.sync_all())
        .and_then(|()| sizes.iter().map(|size| Ok((*size, syncs(&mut file, *size, ROOM, span)?))).collect());
    disk.remove(NAME)?;
    measured
}

fn syncs(file: &mut impl DiskFile, size: u64, room: u64, span: Duration) -> io::Result<Histogram<u64>> {
    let mut histogram = histogram();
    let block = vec![0x5a; size as usize];
    let (mut at, began) = (0, Instant::now());
    while began.elapsed() < span {
        let start = Instant::now();
        file.write_at(at, &block)?;
        file.sync()?;
        histogram.saturating_record(start.elapsed().as_nanos() as u64);
        at = if at + 2 * size > room { 0 } else { at + size };
    }
    Ok(histogram)
}

/// `drave bench net`: measures the round trip of 64 bytes to another thread over loopback.
pub fn net(args: &Bench) -> Result<(), CliError> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed("loopback"))?;
    let address = listener.local_addr().map_err(failed("loopback"))?;
    let echo = std::thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut ball = [0; 64];
        while stream.read_exact(&mut ball).is_ok() {
            stream.write_all(&ball)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address).map_err(failed("loopback"))?;
    let histogram = ping(&mut stream, args.duration).map_err(failed("loopback"))?;
    drop(stream);
    if let Ok(Err(error)) = echo.join() {
        return Err(failed("loopback")(error));
    }
    let (p50, p99, max) = (us(&histogram, 0.5), us(&histogram, 0.99), us(&histogram, 1.0));
    if args.cluster.json() {
        outln!("{}", json!({ "what": "net", "bytes": 64, "p50_us": p50, "p99_us": p99, "max_us": max }));
    } else {
        outln!("round trip of 64 B on loopback · p50 {p50:.1} · p99 {p99:.1} · max {max:.1} µs");
    }
    Ok(())
}

fn ping(stream: &mut TcpStream, span: Duration) -> io::Result<Histogram<u64>> {
    stream.set_nodelay(true)?;
    let mut histogram = histogram();
    let (mut ball, began) = ([7; 64], Instant::now());
    while began.elapsed() < span {
        let start = Instant::now();
        stream.write_all(&ball)?;
        stream.read_exact(&mut ball)?;
        histogram.saturating_record(start.elapsed().as_nanos() as u64);
    }
    Ok(histogram)
}
