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

/// Number of counters read with one query.
const READ_AT_ONCE: usize = 500;

/// The record of a benchmark run, for verification at its end.
pub enum Ledger {
    /// No verification.
    Off,
    /// The increments of each counter, certain and possible.
    Counters(BTreeMap<u64, CounterTotals>),
    /// Every operation, as the clients observed it.
    Operations {
        /// The zero of the history's clock.
        began: Instant,
        /// The invocations and answers.
        history: History,
        /// The operation in the history of each request in flight, by tag.
        under_way: BTreeMap<u64, usize>,
    },
}

/// The increments of one counter.
#[derive(Clone, Copy, Default, Debug)]
pub struct CounterTotals {
    /// Acknowledged increments.
    pub sure: i64,
    /// Increments with an unknown outcome.
    pub perhaps: i64,
}

impl Ledger {
    /// Records a request.
    pub fn record_request(&mut self, tag: u64, key: &Bytes, input: impl FnOnce() -> Input) {
        if let Ledger::Operations { began, history, under_way } = self {
            let now = Time(began.elapsed().as_nanos() as u64);
            under_way.insert(tag, history.invoke(0, key.clone(), input(), now));
        }
    }

    /// Records the answer to a request.
    pub fn answered(&mut self, tag: u64, key: u64, answer: Bytes) -> Result<(), CliError> {
        match self {
            Ledger::Off => {}
            Ledger::Counters(counters) => counters.entry(key).or_default().sure += 1,
            Ledger::Operations { began, history, under_way } => {
                let now = Time(began.elapsed().as_nanos() as u64);
                let answer = Answer::decode(answer)
                    .map_err(|error| CliError { what: format!("an answer cannot be decoded: {error}"), code: 70 })?;
                if let Some(operation) = under_way.remove(&tag) {
                    history.answer(operation, now, answer);
                }
            }
        }
        Ok(())
    }

    /// Records that the outcome of a request is unknown.
    pub fn unknown(&mut self, key: u64) {
        if let Ledger::Counters(counters) = self {
            counters.entry(key).or_default().perhaps += 1;
        }
    }

    /// Verifies the final values of the counters. Each query reads many of them: one by one, each would cost a round of
    /// the cluster.
    pub fn judge_counters(
        &self,
        client: &mut Client,
        keys: &[u64],
        name: impl Fn(u64) -> Bytes,
    ) -> Result<(), CliError> {
        for keys in keys.chunks(READ_AT_ONCE) {
            let names: Vec<Bytes> = keys.iter().map(|key| name(*key)).collect();
            let query = Query::Values(names.iter().map(|name| &**name).collect()).encode();
            let Ok(Answer::Values(values)) = Answer::decode(client.query(&query, Consistency::Linearizable)?.answer)
            else {
                return Err(CliError { what: "the values of the counters cannot be decoded".to_owned(), code: 70 });
            };
            for (key, value) in keys.iter().zip(values) {
                let held = |text: Bytes| String::from_utf8_lossy(&text).parse().unwrap_or(i64::MIN);
                self.judge(*key, value.map_or(0, held))?;
            }
        }
        Ok(())
    }

    /// Verifies the final value of a counter.
    fn judge(&self, key: u64, holds: i64) -> Result<(), CliError> {
        let Ledger::Counters(counters) = self else { return Ok(()) };
        let CounterTotals { sure, perhaps } = counters.get(&key).copied().unwrap_or_default();
        if (sure..=sure + perhaps).contains(&holds) {
            return Ok(());
        }
        let range = if perhaps == 0 { sure.to_string() } else { format!("{sure} to {}", sure + perhaps) };
        Err(CliError { what: format!("counter {key} holds {holds}, and its increments add up to {range}"), code: 1 })
    }

    /// Verifies that the history is linearizable; returns the number of answered operations.
    pub fn judge_history(&self) -> Result<Option<usize>, CliError> {
        let Ledger::Operations { history, .. } = self else { return Ok(None) };
        history.check().map_err(|what| CliError { what: format!("not linearizable: {what}"), code: 1 })?;
        Ok(Some(history.answered()))
    }
}
