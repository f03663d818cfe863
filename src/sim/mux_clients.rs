//! Simulated clients with several requests in progress on one connection: the protocol of `Mux` over simulated
//! connections.

use super::checks;
use super::mux_client::MuxClient;
use super::tasks::Body;
use super::workload::TaskEnd;
use super::world::World;
use crate::client::mux_protocol::{Completion, Result as Ended};
use crate::types::Time;

fn ending(ended: Ended) -> TaskEnd {
    match ended {
        Ended::Executed { answer, .. } => TaskEnd::Answered(answer, None),
        Ended::Answered { applied, answer } => TaskEnd::Answered(answer, Some(applied)),
        Ended::Refused(_) => TaskEnd::Refused,
        Ended::Unknown | Ended::AnswerTooLong { .. } => TaskEnd::Unknown,
    }
}

impl World {
    /// Does all that is due for a client, as `Mux::work` does.
    pub(super) fn drive_mux(&mut self, mux: &mut MuxClient) -> checks::Result<()> {
        let (now, client) = (self.now, mux.asker.client);
        self.end_tasks(mux)?;
        if mux.asker.stopping && mux.asker.is_done() {
            return Ok(());
        }
        self.drop_lost(mux);
        if let Some(endpoint) = mux.protocol.dial(now) {
            mux.main = Some(self.open_link(client, &endpoint)?);
        }
        mux.protocol.wake(now);
        while mux.protocol.has_room()
            && let Some((tag, body)) = mux.asker.begin(now, &mut self.rng, &mut self.history)
        {
            match body {
                Body::Command(command) => mux.protocol.execute(now, command, tag),
                Body::Query(query, consistency) => mux.protocol.query(now, query, consistency, tag),
            }
        }
        let second = mux.protocol.second_opinion(now);
        self.drop_lost(mux);
        if let Some(endpoint) = second {
            mux.second = Some(self.open_link(client, &endpoint)?);
        }
        if let Some(link) = mux.main
            && !mux.protocol.output().is_empty()
        {
            self.send_on_link(link, mux.protocol.output().split().freeze());
        }
        if let (Some(link), Some(scout)) = (mux.second, mux.protocol.scout())
            && !scout.output().is_empty()
        {
            self.send_on_link(link, scout.output().split().freeze());
        }
        let next = if mux.protocol.has_room() && !mux.asker.stopping { mux.asker.next_at } else { Time::NEVER };
        let when = mux.protocol.deadline().map_or(next, |deadline| deadline.min(next));
        self.wake_linked(client, when);
        Ok(())
    }

    /// Records the tasks that have ended.
    fn end_tasks(&mut self, mux: &mut MuxClient) -> checks::Result<()> {
        for Completion { tag, result, .. } in std::mem::take(&mut mux.done) {
            self.trace_line(|| format!("client {} receives {result:?}", mux.asker.client));
            mux.asker.ends(self.now, (tag, mux.main), ending(result), (&mut self.history, &self.values))?;
        }
        Ok(())
    }

    /// Closes connections that the protocol has abandoned.
    fn drop_lost(&mut self, mux: &mut MuxClient) {
        if !mux.protocol.is_connected()
            && let Some(link) = mux.main.take()
        {
            self.close_link(link);
        }
        if mux.protocol.scout().is_none()
            && let Some(link) = mux.second.take()
        {
            self.close_link(link);
        }
    }
}
