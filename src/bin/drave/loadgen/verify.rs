//! Verifies the answers: counters must add up, and the history of reads and writes must be linearizable.

use crate::remote::failure::CliError;
use bytes::Bytes;
use drave::api::Consistency;
use drave::client::Client;
use drave::machine::commands::{Answer, Query};
use drave::sim::history::{History, Input};
use drave::types::Time;
use std::collections::BTreeMap;
use std::time::Instant;

/// The maximum number of counters that one query reads.
const KEYS_PER_QUERY_MAX: usize = 500;

/// The record of the answers in a run, for verification at the end.
pub enum Ledger {
    /// Nothing is recorded or verified.
    Off,
    /// The increments of each counter, by the number of the counter.
    Counters(BTreeMap<u64, CounterTotals>),
    /// Every operation, as the clients observed it.
    Operations {
        /// The start of the run: times in the history count from it.
        began: Instant,
        /// The invocation and, once there is one, the answer of each operation.
        history: History,
        /// For each request in flight, by tag: the number of its operation in the history.
        in_flight: BTreeMap<u64, usize>,
    },
}

/// The number of increments of one counter, by outcome.
#[derive(Clone, Copy, Default, Debug)]
pub struct CounterTotals {
    /// Increments that were acknowledged: the counter includes each once.
    pub acknowledged: i64,
    /// Increments with an unknown outcome: the counter may include them.
    pub unknown: i64,
}

impl Ledger {
    /// Records that a request was sent. `tag` identifies the request until it is answered.
    pub fn record_request(&mut self, tag: u64, key: &Bytes, input: impl FnOnce() -> Input) {
        if let Ledger::Operations { began, history, in_flight } = self {
            let now = Time(began.elapsed().as_nanos() as u64);
            in_flight.insert(tag, history.record_request(0, key.clone(), input(), now));
        }
    }

    /// Records the answer to a request on the key with number `key_number`.
    pub fn record_answer(&mut self, tag: u64, key_number: u64, answer: Bytes) -> Result<(), CliError> {
        match self {
            Ledger::Off => {}
            Ledger::Counters(counters) => counters.entry(key_number).or_default().acknowledged += 1,
            Ledger::Operations { began, history, in_flight } => {
                let now = Time(began.elapsed().as_nanos() as u64);
                let answer = Answer::decode(answer)
                    .map_err(|error| CliError { message: format!("an answer cannot be decoded: {error}"), code: 70 })?;
                if let Some(operation) = in_flight.remove(&tag) {
                    history.record_answer(operation, now, answer);
                }
            }
        }
        Ok(())
    }

    /// Counts an increment of the counter `key_number` whose outcome is unknown. A history needs no such record: its
    /// operation stays without an answer.
    pub fn record_unknown(&mut self, key_number: u64) {
        if let Ledger::Counters(counters) = self {
            counters.entry(key_number).or_default().unknown += 1;
        }
    }

    /// Reads and verifies the final values of the counters. One query reads up to
    /// `KEYS_PER_QUERY_MAX` counters, because each query waits until a quorum confirms the leader.
    pub fn verify_counters(
        &self,
        client: &mut Client,
        keys: &[u64],
        counter_name: impl Fn(u64) -> Bytes,
    ) -> Result<(), CliError> {
        for keys in keys.chunks(KEYS_PER_QUERY_MAX) {
            let counter_names: Vec<Bytes> = keys.iter().map(|key| counter_name(*key)).collect();
            let query = Query::Values(counter_names.iter().map(|name| &**name).collect()).encode();
            let Ok(Answer::Values(values)) = Answer::decode(client.query(&query, Consistency::Linearizable)?.answer)
            else {
                return Err(CliError { message: "the values of the counters cannot be decoded".to_owned(), code: 70 });
            };
            for (key, value) in keys.iter().zip(values) {
                let parse_counter = |text: Bytes| String::from_utf8_lossy(&text).parse().unwrap_or(i64::MIN);
                self.verify_counter(*key, value.map_or(0, parse_counter))?;
            }
        }
        Ok(())
    }

    /// Verifies that the final value of a counter is a possible sum of its increments.
    fn verify_counter(&self, key: u64, value: i64) -> Result<(), CliError> {
        let Ledger::Counters(counters) = self else { return Ok(()) };
        let CounterTotals { acknowledged, unknown } = counters.get(&key).copied().unwrap_or_default();
        if (acknowledged..=acknowledged + unknown).contains(&value) {
            return Ok(());
        }
        let possible_sums = if unknown == 0 {
            acknowledged.to_string()
        } else {
            format!("{acknowledged} to {}", acknowledged + unknown)
        };
        Err(CliError {
            message: format!("counter {key} holds {value}, and its increments add up to {possible_sums}"),
            code: 1,
        })
    }

    /// Verifies that the history is linearizable. Returns the number of answered operations; `None` if no history was
    /// recorded.
    pub fn verify_history(&self) -> Result<Option<usize>, CliError> {
        let Ledger::Operations { history, .. } = self else { return Ok(None) };
        history.check().map_err(|message| CliError { message: format!("not linearizable: {message}"), code: 1 })?;
        Ok(Some(history.answered_count()))
    }
}
