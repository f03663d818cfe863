//! Baselines of the hardware, to compare a cluster with: plain writes with fdatasync, and round trips over loopback,
//! both without a server.

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

fn io_error(context: &str) -> impl Fn(io::Error) -> CliError + '_ {
    move |error| CliError { message: format!("{context}: {error}"), code: 74 }
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the histogram bounds are valid")
}

fn quantile_us(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    (histogram.value_at_quantile(quantile) as f64 / 100.0).round() / 10.0
}

/// `drave bench disk`: writes one block after the other into a preallocated file, and syncs each write.
pub fn run_disk(args: &Bench) -> Result<(), CliError> {
    let path = args.measured_directory.display().to_string();
    let disk = FsDisk::open_existing(&args.measured_directory).map_err(io_error(&path))?;
    if disk.is_in_memory() {
        eprintln!("warning: {path} lies in memory (tmpfs): these figures are not those of a disk");
    }
    let sizes = [args.value_size, 4 << 10, 64 << 10, 1 << 20];
    let span = args.duration / sizes.len() as u32;
    for (size, histogram) in measure_sync_sizes(&disk, &sizes, span).map_err(io_error(&path))? {
        let (p50, p99, max) =
            (quantile_us(&histogram, 0.5), quantile_us(&histogram, 0.99), quantile_us(&histogram, 1.0));
        let syncs_per_s = 1e6 / (histogram.mean() / 1000.0);
        if args.cluster.prints_json() {
            outln!(
                "{}",
                json!({
                    "what": "disk", "bytes": size, "p50_us": p50, "p99_us": p99, "max_us": max,
                    "syncs_per_s": syncs_per_s,
                })
            );
        } else {
            outln!(
                "write + fdatasync {size:>8} B · p50 {p50:>8.1} · p99 {p99:>8.1} · max {max:>8.1} µs · \
                 {syncs_per_s:>7.0}/s"
            );
        }
    }
    Ok(())
}

/// Measures writes of `size` bytes with a sync each on this disk, for `span`; returns nanoseconds.
pub fn measure_sync(disk: &FsDisk, size: u64, span: Duration) -> io::Result<Histogram<u64>> {
    Ok(measure_sync_sizes(disk, &[size], span)?.pop().map_or_else(new_histogram, |(_, histogram)| histogram))
}

/// Measures writes of each size with a sync each for `span`, in a temporary file that is removed afterwards.
fn measure_sync_sizes(disk: &FsDisk, sizes: &[u64], span: Duration) -> io::Result<Vec<(u64, Histogram<u64>)>> {
    const FILE_NAME: &str = "drave-bench-disk.tmp";
    const FILE_BYTES: u64 = 64 << 20;
    if disk.list()?.iter().any(|name| name == FILE_NAME) {
        disk.remove(FILE_NAME)?;
    }
    let mut file = disk.create(FILE_NAME)?;
    let result = file.allocate(FILE_BYTES).and_then(|()| file.sync_all()).and_then(|()| {
        sizes.iter().map(|size| Ok((*size, measure_syncs(&mut file, *size, FILE_BYTES, span)?))).collect()
    });
    disk.remove(FILE_NAME)?;
    result
}

/// Writes and syncs blocks of `size` bytes for `span`, from the beginning of the file again after its end. Returns the
/// nanoseconds of each write with its sync.
fn measure_syncs(file: &mut impl DiskFile, size: u64, file_bytes: u64, span: Duration) -> io::Result<Histogram<u64>> {
    let mut histogram = new_histogram();
    let block = vec![0x5a; size as usize];
    let (mut offset, began) = (0, Instant::now());
    while began.elapsed() < span {
        let sample_began_at = Instant::now();
        file.write_at(offset, &block)?;
        file.sync()?;
        histogram.saturating_record(sample_began_at.elapsed().as_nanos() as u64);
        offset = if offset + 2 * size > file_bytes { 0 } else { offset + size };
    }
    Ok(histogram)
}

/// `drave bench net`: measures the round trip of 64 bytes to another thread over loopback.
pub fn run_net(args: &Bench) -> Result<(), CliError> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(io_error("loopback"))?;
    let address = listener.local_addr().map_err(io_error("loopback"))?;
    let echo_thread = std::thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut payload = [0; 64];
        while stream.read_exact(&mut payload).is_ok() {
            stream.write_all(&payload)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address).map_err(io_error("loopback"))?;
    let histogram = measure_round_trips(&mut stream, args.duration).map_err(io_error("loopback"))?;
    drop(stream);
    if let Ok(Err(error)) = echo_thread.join() {
        return Err(io_error("loopback")(error));
    }
    let (p50, p99, max) = (quantile_us(&histogram, 0.5), quantile_us(&histogram, 0.99), quantile_us(&histogram, 1.0));
    if args.cluster.prints_json() {
        outln!("{}", json!({ "what": "net", "bytes": 64, "p50_us": p50, "p99_us": p99, "max_us": max }));
    } else {
        outln!("round trip of 64 B on loopback · p50 {p50:.1} · p99 {p99:.1} · max {max:.1} µs");
    }
    Ok(())
}

/// Sends 64 bytes and waits for their echo, again and again for `span`. Returns the nanoseconds of each round trip.
fn measure_round_trips(stream: &mut TcpStream, span: Duration) -> io::Result<Histogram<u64>> {
    stream.set_nodelay(true)?;
    let mut histogram = new_histogram();
    let (mut payload, began) = ([7; 64], Instant::now());
    while began.elapsed() < span {
        let sample_began_at = Instant::now();
        stream.write_all(&payload)?;
        stream.read_exact(&mut payload)?;
        histogram.saturating_record(sample_began_at.elapsed().as_nanos() as u64);
    }
    Ok(histogram)
}
