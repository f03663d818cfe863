//! Runs a closed-loop or open-loop load against a cluster and measures it.

use super::args::{Bench, Dist, Workload};
use super::report::{self, Run};
use super::result::RunResult;
use super::verify::Ledger;
use crate::remote::cluster::Cluster;
use crate::remote::failure::CliError;
use bytes::Bytes;
use drave::api::Consistency;
use drave::client::{Completion, Fleet, Mux, MuxOptions, Result as Came};
use drave::machine::KIND;
use drave::machine::commands::{Answer, Command, Query};
use drave::sim::history::{History, Input};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use slab::Slab;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Prefix of all keys that the benchmark writes; they are removed at the end.
const PREFIX: &str = "b/";

struct Flight {
    intended: Instant,
    sent: Instant,
    key: u64,
}

/// Generates the key and the operation of each request.
struct Generator {
    args: Bench,
    run: u16,
    rng: SmallRng,
    next: u64,
    value: Vec<u8>,
    written: u64,
}

impl Generator {
    fn key(&mut self) -> u64 {
        let keys = self.args.keys;
        self.next += 1;
        match self.args.dist {
            Dist::Seq => self.next % keys,
            Dist::Uniform => self.rng.random_range(0..keys),
            // Approximate inverse of a Zipf distribution with exponent 1, good enough for a load.
            Dist::Zipf => ((keys as f64).powf(self.rng.random::<f64>()) as u64 - 1).min(keys - 1),
        }
    }

    /// The name of a key. It begins with the run number, so that two runs never share keys.
    fn name(&self, key: u64) -> Bytes {
        let digits = (self.args.key_size as usize).saturating_sub(PREFIX.len() + 5);
        Bytes::from(format!("{PREFIX}{:04x}/{key:0digits$}", self.run))
    }

    fn input(&mut self) -> Input {
        match self.args.what {
            Workload::Get => Input::Get,
            Workload::Mixed if self.rng.random::<f64>() < self.args.read_ratio => Input::Get,
            Workload::Incr => Input::Incr(1),
            Workload::Put | Workload::Mixed | Workload::Disk | Workload::Net => {
                self.written += 1;
                // Every value is unique, so that a stale read can be detected.
                let number = self.written.to_le_bytes();
                let length = self.value.len().min(8);
                self.value[..length].copy_from_slice(&number[..length]);
                Input::Put(Bytes::copy_from_slice(&self.value))
            }
        }
    }
}

fn ask(mux: &mut Mux, name: &Bytes, input: &Input, tag: u64) {
    match input {
        Input::Get => mux.query(Query::Get { key: name }.encode(), Consistency::Linearizable, tag),
        Input::Incr(by) => mux.execute(Command::Incr { key: name, by: *by }.encode(), tag),
        Input::Put(value) => mux.execute(Command::Put { key: name, value }.encode(), tag),
        Input::Del | Input::Cas(..) | Input::PutFor(..) => unreachable!("no workload deletes, compares or expires"),
    }
}

/// Measures one run. Returns its result if it finished, and the verdict: the first error, a failed verification or a
/// missed SLO.
pub fn measure(args: &Bench) -> (Option<RunResult>, Result<(), CliError>) {
    let mut outcome = None;
    let verdict = run_load(args, &mut outcome);
    (outcome, verdict)
}

fn run_load(args: &Bench, outcome: &mut Option<RunResult>) -> Result<(), CliError> {
    args.check()?;
    let io = |error: std::io::Error| CliError { what: format!("sockets: {error}"), code: 74 };
    let before = report::poll_until_leader(args);
    report::head(args, &before)?;
    let options =
        MuxOptions { keys: args.cluster.tls.keys.clone(), machine: KIND, ..MuxOptions::new(args.inflight as usize) };
    let mut fleet = Fleet::new(&args.cluster.endpoints, args.clients as usize, options).map_err(io)?;
    let mut generator = Generator {
        args: args.clone(),
        run: args.run.unwrap_or_else(rand::random),
        rng: SmallRng::seed_from_u64(rand::random()),
        next: 0,
        value: vec![b'v'; args.value_size as usize],
        written: 0,
    };
    let ledger = match (args.verify, args.what) {
        (true, Workload::Incr) => Ledger::Counters(BTreeMap::new()),
        (true, Workload::Mixed) => {
            Ledger::Operations { began: Instant::now(), history: History::default(), under_way: BTreeMap::new() }
        }
        _ => Ledger::Off,
    };
    let mut load = Load::new(args, ledger);
    let gone = load.go(&mut fleet, &mut generator).map_err(io);
    let verdict = gone.and_then(|()| load.trouble.take().map_or(Ok(()), Err)).and_then(|()| {
        let after = report::poll_until_leader(args);
        *outcome = Some(report::tail(args, &load.run, &before, &after)?);
        judge(args, &load.ledger, &generator).and_then(|()| report::slo(args, &load.run))
    });
    // Clean up after a failed run as well: its keys may be what filled the disk.
    let cleaned = if args.keep || args.what == Workload::Get { Ok(()) } else { clean_up(args, &generator) };
    if let (Err(_), Err(CliError { what, .. })) = (&verdict, &cleaned) {
        eprintln!("warning: the keys of this run were not removed: {what}");
    }
    verdict.and(cleaned)
}

/// Minimum timeout of each request that removes the keys.
const CLEAN_WITHIN: Duration = Duration::from_secs(30);
/// How long a cluster may reject writes for lack of disk space before the run is aborted: it may regain space by
/// itself.
const FULL_FOR: Duration = Duration::from_secs(3);

struct Load<'a> {
    args: &'a Bench,
    flights: Slab<Flight>,
    ledger: Ledger,
    run: Run,
    measuring: bool,
    trouble: Option<CliError>,
}

impl<'a> Load<'a> {
    fn new(args: &'a Bench, ledger: Ledger) -> Load<'a> {
        Load { args, flights: Slab::new(), ledger, run: Run::new(), measuring: false, trouble: None }
    }

    fn go(&mut self, fleet: &mut Fleet, generator: &mut Generator) -> std::io::Result<()> {
        let began = Instant::now();
        let gap = self.args.rate.map(|rate| Duration::from_nanos(1_000_000_000 / rate.max(1)));
        let (mut due, mut turn, mut stopped) = (began, 0, None);
        loop {
            let now = Instant::now();
            if !self.measuring && now - began >= self.args.warmup {
                self.measuring = true;
                self.run.start(now);
            }
            if (0..fleet.len()).any(|n| fleet[n].full_since().is_some_and(|since| now - since > FULL_FOR)) {
                self.trouble.get_or_insert_with(no_space);
            }
            let done = self.has_sent_total() && self.flights.is_empty();
            let over = self.measuring && (done || now - self.run.began >= self.args.duration);
            if (over || self.trouble.is_some()) && stopped.is_none() {
                stopped = Some(now);
                self.run.stop(now, self.flights.len() as u64);
            }
            match stopped {
                // Requests in flight are completed first, so that the run can be verified.
                Some(since) if self.flights.is_empty() || now - since > self.args.cluster.timeout => break,
                Some(_) => {}
                None => match gap {
                    None => self.fill(fleet, generator, now),
                    Some(gap) => self.keep_pace(fleet, generator, now, &mut due, gap, &mut turn),
                },
            }
            let wait = match gap {
                // Behind schedule because no connection has room: wait for a response, as in a closed loop.
                Some(_) if stopped.is_none() && due > now => due.saturating_duration_since(Instant::now()),
                _ => Duration::from_millis(20),
            };
            fleet.turn(wait.min(Duration::from_millis(20)), |_, _, completion| self.finish(completion))?;
            self.run.tick(self.args, Instant::now());
        }
        for (_, flight) in &self.flights {
            self.ledger.unknown(flight.key);
            self.run.unknown += 1;
        }
        Ok(())
    }

    fn has_sent_total(&self) -> bool {
        self.args.total.is_some_and(|total| self.run.asked >= total)
    }

    /// Closed loop: every connection with room sends.
    fn fill(&mut self, fleet: &mut Fleet, generator: &mut Generator, now: Instant) {
        for n in 0..fleet.len() {
            while fleet[n].is_up() && fleet[n].has_room() && !self.has_sent_total() {
                self.send(&mut fleet[n], generator, now);
            }
        }
    }

    /// Open loop: requests are sent on schedule, and latency counts from the scheduled time.
    fn keep_pace(
        &mut self,
        fleet: &mut Fleet,
        generator: &mut Generator,
        now: Instant,
        due: &mut Instant,
        gap: Duration,
        turn: &mut usize,
    ) {
        while *due <= now && !self.has_sent_total() {
            let connections = fleet.len();
            let free =
                (0..connections).map(|n| (*turn + n) % connections).find(|n| fleet[*n].is_up() && fleet[*n].has_room());
            let Some(n) = free else { break };
            self.send(&mut fleet[n], generator, *due);
            *turn = n + 1;
            *due += gap;
        }
    }

    fn send(&mut self, mux: &mut Mux, generator: &mut Generator, intended: Instant) {
        let key = generator.key();
        let name = generator.name(key);
        let input = generator.input();
        let tag = self.flights.insert(Flight { intended, sent: Instant::now(), key }) as u64;
        self.ledger.record_request(tag, &name, || input.clone());
        ask(mux, &name, &input, tag);
        self.run.asked += u64::from(self.measuring);
    }

    fn finish(&mut self, completion: Completion) {
        let Completion { tag, retries, result } = completion;
        let Some(flight) = self.flights.try_remove(tag as usize) else { return };
        let now = Instant::now();
        self.run.retries += u64::from(retries);
        match result {
            Came::Executed { position, answer } => {
                self.run.led(now, position.term);
                self.answered(tag, &flight, now, answer);
            }
            Came::Answered { answer, .. } => self.answered(tag, &flight, now, answer),
            Came::Refused(_) => self.run.errors += 1,
            Came::Unknown | Came::AnswerTooLong { .. } => {
                self.ledger.unknown(flight.key);
                self.run.unknown += 1;
            }
        }
    }

    fn answered(&mut self, tag: u64, flight: &Flight, now: Instant, answer: Bytes) {
        if let Err(trouble) = self.ledger.answered(tag, flight.key, answer) {
            self.trouble = Some(trouble);
        }
        self.run.record(now, now - flight.intended, now - flight.sent);
    }
}

/// The error for a cluster whose leader has no disk space left.
fn no_space() -> CliError {
    let what = "no space left on the disk of the leader: the run is aborted\n  its keys are removed, unless with \
                --keep; free disk space, or use fewer --keys";
    CliError { what: what.to_owned(), code: 3 }
}

/// Verifies the ledger and prints the outcome.
fn judge(args: &Bench, ledger: &Ledger, generator: &Generator) -> Result<(), CliError> {
    if let Ledger::Counters(counters) = ledger {
        let mut client = args.cluster.kv_client();
        let keys: Vec<u64> = counters.keys().copied().collect();
        ledger.judge_counters(&mut client, &keys, |key| generator.name(key))?;
        let sure: i64 = counters.values().map(|counted| counted.sure).sum();
        let perhaps: i64 = counters.values().map(|counted| counted.perhaps).sum();
        eprintln!("verified: {} counters hold {sure} increments, each once ({perhaps} unknown)", counters.len());
    }
    if let Some(operations) = ledger.judge_history()? {
        eprintln!("verified: {operations} operations are linearizable");
    }
    Ok(())
}

fn clean_up(args: &Bench, generator: &Generator) -> Result<(), CliError> {
    // The timeout is longer than for a benchmark request: keys that are not deleted stay in the cluster.
    let timeout = args.cluster.timeout.max(CLEAN_WITHIN);
    let mut client = Cluster { timeout, ..args.cluster.clone() }.kv_client();
    let prefix = generator.name(0).slice(..PREFIX.len() + 5);
    loop {
        let scan = Query::Scan { prefix: &prefix, after: None, limit: 2000 };
        let queried = client.query(&scan.encode(), Consistency::Linearizable)?;
        let Ok(Answer::Pairs { pairs, .. }) = Answer::decode(queried.answer) else { break };
        if pairs.is_empty() {
            break;
        }
        let dels = pairs.iter().map(|(key, _)| Command::Del { key }).collect();
        client.execute(&Command::Batch(dels).encode())?;
    }
    Ok(())
}
