//! Runs a closed-loop or open-loop load against a cluster and measures it.

use super::args::{Bench, KeyDistribution, Workload};
use super::report::{self, RunStats};
use super::result::RunResult;
use super::verify::Ledger;
use crate::remote::cluster::ClusterArgs;
use crate::remote::failure::CliError;
use bytes::Bytes;
use drave::api::Consistency;
use drave::client::{Completion, Fleet, Mux, MuxOptions, RequestResult as Outcome};
use drave::machine::KIND;
use drave::machine::commands::{Answer, Command, Query};
use drave::sim::history::{History, Input};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use slab::Slab;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The prefix of all keys that the benchmark writes. The keys are removed at the end.
const KEY_PREFIX: &str = "b/";

struct InFlightRequest {
    /// When the request was due: an open loop sends the request late if no connection has room.
    scheduled_at: Instant,
    sent_at: Instant,
    key_number: u64,
}

/// Generates the key and the operation of each request.
struct RequestGenerator {
    args: Bench,
    run_number: u16,
    rng: SmallRng,
    sequence_number: u64,
    value: Vec<u8>,
    generated_value_count: u64,
}

impl RequestGenerator {
    fn next_key_number(&mut self) -> u64 {
        let key_count = self.args.keys;
        self.sequence_number += 1;
        match self.args.key_distribution {
            KeyDistribution::Seq => self.sequence_number % key_count,
            KeyDistribution::Uniform => self.rng.random_range(0..key_count),
            // The approximate inverse of the cumulative Zipf distribution with exponent 1.
            KeyDistribution::Zipf => ((key_count as f64).powf(self.rng.random::<f64>()) as u64 - 1).min(key_count - 1),
        }
    }

    /// The name of a key. It begins with the run number, so that two runs never share keys.
    fn key_name(&self, key_number: u64) -> Bytes {
        let digit_count = (self.args.key_size as usize).saturating_sub(KEY_PREFIX.len() + 5);
        Bytes::from(format!("{KEY_PREFIX}{:04x}/{key_number:0digit_count$}", self.run_number))
    }

    fn next_operation(&mut self) -> Input {
        match self.args.workload {
            Workload::Get => Input::Get,
            Workload::Mixed if self.rng.random::<f64>() < self.args.read_ratio => Input::Get,
            Workload::Incr => Input::Incr(1),
            Workload::Put | Workload::Mixed | Workload::Disk | Workload::Net => {
                self.generated_value_count += 1;
                // Every value is unique, so that a stale read can be detected.
                let unique_bytes = self.generated_value_count.to_le_bytes();
                let length = self.value.len().min(8);
                self.value[..length].copy_from_slice(&unique_bytes[..length]);
                Input::Put(Bytes::copy_from_slice(&self.value))
            }
        }
    }
}

fn send_request(mux: &mut Mux, key_name: &Bytes, input: &Input, tag: u64) {
    match input {
        Input::Get => mux.query(Query::Get { key: key_name }.encode(), Consistency::Linearizable, tag),
        Input::Incr(by) => mux.execute(Command::Incr { key: key_name, by: *by }.encode(), tag),
        Input::Put(value) => mux.execute(Command::Put { key: key_name, value }.encode(), tag),
        Input::Del | Input::Cas(..) | Input::PutWithTtl(..) => {
            unreachable!("no workload deletes keys, compares values or sets deadlines")
        }
    }
}

/// Measures one run. Returns its result if it finished, and the verdict: the first error, a failed verification or a
/// missed SLO.
pub fn measure(args: &Bench) -> (Option<RunResult>, Result<(), CliError>) {
    let mut run_result = None;
    let verdict = run_load(args, &mut run_result);
    (run_result, verdict)
}

fn run_load(args: &Bench, run_result: &mut Option<RunResult>) -> Result<(), CliError> {
    args.check_state_size()?;
    let socket_error = |error: std::io::Error| CliError { message: format!("sockets: {error}"), code: 74 };
    let statuses_before = report::poll_until_leader(args);
    report::print_header(args, &statuses_before)?;
    let options = MuxOptions {
        keys: args.cluster.tls.keys.clone(),
        machine_kind: KIND,
        ..MuxOptions::new(args.inflight as usize)
    };
    let mut fleet = Fleet::new(&args.cluster.endpoints, args.clients as usize, options).map_err(socket_error)?;
    let mut generator = RequestGenerator {
        args: args.clone(),
        run_number: args.run_number.unwrap_or_else(rand::random),
        rng: SmallRng::seed_from_u64(rand::random()),
        sequence_number: 0,
        value: vec![b'v'; args.value_size as usize],
        generated_value_count: 0,
    };
    let ledger = match (args.verify, args.workload) {
        (true, Workload::Incr) => Ledger::Counters(BTreeMap::new()),
        (true, Workload::Mixed) => {
            Ledger::Operations { began: Instant::now(), history: History::default(), in_flight: BTreeMap::new() }
        }
        _ => Ledger::Off,
    };
    let mut load = LoadDriver::new(args, ledger);
    let send_result = load.run_to_end(&mut fleet, &mut generator).map_err(socket_error);
    let verdict = send_result.and_then(|()| load.error.take().map_or(Ok(()), Err)).and_then(|()| {
        let statuses_after = report::poll_until_leader(args);
        *run_result = Some(report::print_result(args, &load.run_stats, &statuses_before, &statuses_after)?);
        verify(args, &load.ledger, &generator).and_then(|()| report::check_slo(args, &load.run_stats))
    });
    // The keys of a failed run are removed as well: they may have filled the disk.
    let cleanup_result =
        if args.keep_keys || args.workload == Workload::Get { Ok(()) } else { remove_run_keys(args, &generator) };
    if let (Err(_), Err(CliError { message, .. })) = (&verdict, &cleanup_result) {
        eprintln!("warning: the keys of this run were not removed: {message}");
    }
    verdict.and(cleanup_result)
}

/// The minimum timeout of each request that deletes keys at the end.
const CLEANUP_TIMEOUT_MIN: Duration = Duration::from_secs(30);
/// How long a cluster may reject writes for lack of disk space before the run is aborted: meanwhile log compaction may
/// free space.
const NO_SPACE_TIMEOUT: Duration = Duration::from_secs(3);

/// Sends the requests of one run, and records their answers.
struct LoadDriver<'a> {
    args: &'a Bench,
    in_flight: Slab<InFlightRequest>,
    ledger: Ledger,
    run_stats: RunStats,
    is_measuring: bool,
    error: Option<CliError>,
}

impl<'a> LoadDriver<'a> {
    fn new(args: &'a Bench, ledger: Ledger) -> LoadDriver<'a> {
        LoadDriver {
            args,
            in_flight: Slab::new(),
            ledger,
            run_stats: RunStats::new(),
            is_measuring: false,
            error: None,
        }
    }

    /// Sends requests until the run is over or has failed, then waits for the requests in flight.
    fn run_to_end(&mut self, fleet: &mut Fleet, generator: &mut RequestGenerator) -> std::io::Result<()> {
        let began = Instant::now();
        let send_interval = self.args.requests_per_s.map(|rate| Duration::from_nanos(1_000_000_000 / rate.max(1)));
        let (mut next_due, mut next_connection, mut stopped_at) = (began, 0, None);
        loop {
            let now = Instant::now();
            if !self.is_measuring && now - began >= self.args.warmup {
                self.is_measuring = true;
                self.run_stats.start(now);
            }
            if (0..fleet.len()).any(|n| fleet[n].disk_full_since().is_some_and(|since| now - since > NO_SPACE_TIMEOUT))
            {
                self.error.get_or_insert_with(no_space_error);
            }
            let all_answered = self.has_sent_all_requests() && self.in_flight.is_empty();
            let is_over = self.is_measuring && (all_answered || now - self.run_stats.began >= self.args.duration);
            if (is_over || self.error.is_some()) && stopped_at.is_none() {
                stopped_at = Some(now);
                self.run_stats.stop(now, self.in_flight.len() as u64);
            }
            match stopped_at {
                // Requests in flight are completed first, so that the run can be verified.
                Some(since) if self.in_flight.is_empty() || now - since > self.args.cluster.timeout => break,
                Some(_) => {}
                None => match send_interval {
                    None => self.send_closed_loop(fleet, generator, now),
                    Some(send_interval) => {
                        self.send_open_loop(fleet, generator, now, &mut next_due, send_interval, &mut next_connection)
                    }
                },
            }
            let wait = match send_interval {
                Some(_) if stopped_at.is_none() && next_due > now => next_due.saturating_duration_since(Instant::now()),
                // A closed loop, or an open loop that is behind schedule because no connection has room: only a
                // response allows the next request.
                _ => Duration::from_millis(20),
            };
            fleet.poll(wait.min(Duration::from_millis(20)), |_, _, completion| self.record_completion(completion))?;
            self.run_stats.report_second(self.args, Instant::now());
        }
        for (_, request) in &self.in_flight {
            self.ledger.record_unknown(request.key_number);
            self.run_stats.unknown += 1;
        }
        Ok(())
    }

    fn has_sent_all_requests(&self) -> bool {
        self.args.requests_max.is_some_and(|total| self.run_stats.sent >= total)
    }

    /// Closed loop: sends requests on every connection that has room.
    fn send_closed_loop(&mut self, fleet: &mut Fleet, generator: &mut RequestGenerator, now: Instant) {
        for n in 0..fleet.len() {
            while fleet[n].is_up() && fleet[n].has_room() && !self.has_sent_all_requests() {
                self.send_next_request(&mut fleet[n], generator, now);
            }
        }
    }

    /// Open loop: sends the requests that are due. Their latency counts from the scheduled time.
    fn send_open_loop(
        &mut self,
        fleet: &mut Fleet,
        generator: &mut RequestGenerator,
        now: Instant,
        next_due: &mut Instant,
        send_interval: Duration,
        next_connection: &mut usize,
    ) {
        while *next_due <= now && !self.has_sent_all_requests() {
            let connection_count = fleet.len();
            let free_connection = (0..connection_count)
                .map(|n| (*next_connection + n) % connection_count)
                .find(|n| fleet[*n].is_up() && fleet[*n].has_room());
            let Some(n) = free_connection else { break };
            self.send_next_request(&mut fleet[n], generator, *next_due);
            *next_connection = n + 1;
            *next_due += send_interval;
        }
    }

    fn send_next_request(&mut self, mux: &mut Mux, generator: &mut RequestGenerator, scheduled_at: Instant) {
        let key_number = generator.next_key_number();
        let key_name = generator.key_name(key_number);
        let input = generator.next_operation();
        let tag = self.in_flight.insert(InFlightRequest { scheduled_at, sent_at: Instant::now(), key_number }) as u64;
        self.ledger.record_request(tag, &key_name, || input.clone());
        send_request(mux, &key_name, &input, tag);
        self.run_stats.sent += u64::from(self.is_measuring);
    }

    fn record_completion(&mut self, completion: Completion) {
        let Completion { tag, retries, result } = completion;
        let Some(request) = self.in_flight.try_remove(tag as usize) else { return };
        let now = Instant::now();
        self.run_stats.retries += u64::from(retries);
        match result {
            Outcome::Executed { position, answer } => {
                self.run_stats.record_term(now, position.term);
                self.record_answer(tag, &request, now, answer);
            }
            Outcome::Answered { answer, .. } => self.record_answer(tag, &request, now, answer),
            Outcome::Refused(_) => self.run_stats.refused += 1,
            Outcome::Unknown | Outcome::AnswerTooLong { .. } => {
                self.ledger.record_unknown(request.key_number);
                self.run_stats.unknown += 1;
            }
        }
    }

    fn record_answer(&mut self, tag: u64, request: &InFlightRequest, now: Instant, answer: Bytes) {
        if let Err(error) = self.ledger.record_answer(tag, request.key_number, answer) {
            self.error = Some(error);
        }
        self.run_stats.record_answer(now, now - request.scheduled_at, now - request.sent_at);
    }
}

/// The error for a cluster whose leader has no disk space left.
fn no_space_error() -> CliError {
    let message = "no space left on the disk of the leader: the run is aborted\n  its keys are removed, unless with \
                --keep; free disk space, or use fewer --keys";
    CliError { message: message.to_owned(), code: 3 }
}

/// Verifies the answers recorded in the ledger, and prints the number of verified counters or operations.
fn verify(args: &Bench, ledger: &Ledger, generator: &RequestGenerator) -> Result<(), CliError> {
    if let Ledger::Counters(counters) = ledger {
        let mut client = args.cluster.kv_client();
        let keys: Vec<u64> = counters.keys().copied().collect();
        ledger.verify_counters(&mut client, &keys, |key| generator.key_name(key))?;
        let acknowledged_increments: i64 = counters.values().map(|totals| totals.acknowledged).sum();
        let unknown_increments: i64 = counters.values().map(|totals| totals.unknown).sum();
        eprintln!(
            "verified: {} counters hold {acknowledged_increments} increments, each once ({unknown_increments} unknown)",
            counters.len()
        );
    }
    if let Some(operations) = ledger.verify_history()? {
        eprintln!("verified: {operations} operations are linearizable");
    }
    Ok(())
}

/// Deletes the keys of this run, up to 2000 at a time, until a scan finds none.
fn remove_run_keys(args: &Bench, generator: &RequestGenerator) -> Result<(), CliError> {
    // The timeout is longer than for a benchmark request: keys that are not deleted stay in the cluster.
    let timeout = args.cluster.timeout.max(CLEANUP_TIMEOUT_MIN);
    let mut client = ClusterArgs { timeout, ..args.cluster.clone() }.kv_client();
    let prefix = generator.key_name(0).slice(..KEY_PREFIX.len() + 5);
    loop {
        let scan = Query::Scan { prefix: &prefix, after: None, limit: 2000 };
        let response = client.query(&scan.encode(), Consistency::Linearizable)?;
        let Ok(Answer::Pairs { pairs, .. }) = Answer::decode(response.answer) else { break };
        if pairs.is_empty() {
            break;
        }
        let delete_commands = pairs.iter().map(|(key, _)| Command::Del { key }).collect();
        client.execute(&Command::Batch(delete_commands).encode())?;
    }
    Ok(())
}
