//! Checks that everything synced is on a machine's disk, both during a run and when the machine restarts.

use super::checks::Checks;
use super::node_history::{Claims, FalseSync, Image, NodeHistory, Stamp};
use super::violation::Result;
use crate::types::{HardState, Index, NodeId, Term, Write};

/// Whether a disk may hold `found`: the image with a prefix of these writes applied in order, and nothing else.
fn explains(image: &Image, writes: &[&Write], found: &Image, restarted: usize, ledger: &[Stamp]) -> bool {
    let mut image = image.clone();
    // A snapshot on the disk that the journal did not know yet may have replaced a log that does not contain its
    // position.
    let held = restarted.checked_sub(1).and_then(|at| image.log.get(at).copied());
    let gave_way = restarted > 0 && found.log.len() == restarted && held != found.log.last().copied();
    let term = found.log.last().map_or(Term(0), |(term, _)| *term);
    let raised = |hard: HardState| HardState { term, vote: None, ..hard };
    let hard = |hard: HardState| hard == found.hard_state || (hard.term < term && found.hard_state == raised(hard));
    let mut fits = image == *found || (gave_way && hard(image.hard_state));
    for write in writes {
        image.restart(write, ledger);
        fits |= gave_way && write.hard_state.is_some_and(hard);
        // Within a write the hard state comes first, then the entries one by one.
        image.hard_state = write.hard_state.unwrap_or(image.hard_state);
        fits |= image == *found;
        for entry in &write.entries {
            image.put(entry);
            fits |= image == *found;
        }
    }
    fits
}

impl Checks {
    /// From now on a node's disk may report a sync as done that it has not done.
    pub fn lies(&mut self, node: NodeId) {
        let life = self.life(node);
        life.lie = Some(FalseSync { held: life.durable.clone(), since: Vec::new(), power: false });
    }

    /// The node's disk has not done so, and no longer may.
    pub fn is_honest(&mut self, node: NodeId) {
        self.life(node).lie = None;
    }

    /// A machine loses power, and with it the data that its disk has not written.
    pub fn loses_power(&mut self, node: NodeId) {
        self.life(node).lie.iter_mut().for_each(|lie| lie.power = true);
    }

    /// Whether the power was lost after a lie, and the node has not come back since.
    pub fn may_have_lost(&self, node: NodeId) -> bool {
        self.lives[&node].lie.as_ref().is_some_and(|lie| lie.power)
    }

    /// Checks that the disk contents with only synced data include everything reported as synced.
    pub fn holds(&self, node: NodeId, found: Image) -> Result<()> {
        let found = self.complete(node, found)?;
        let promised = &self.lives[&node].durable;
        // More may have been synced than was reported: a large batch is written in pieces.
        if found.log.get(..promised.log.len()) != Some(&promised.log) {
            let (held, said) = (found.log.len(), promised.log.len());
            return Err(format!("the disk of {node} holds {held} entries, and {said} were reported as synced"));
        }
        let (there, said) = (found.hard_state, promised.hard_state);
        let votes = there.term == said.term && (said.vote.is_none() || there.vote == said.vote);
        if there.term < said.term || (there.term == said.term && !votes) {
            return Err(format!("the disk of {node} holds {there:?}, and {said:?} was reported as synced"));
        }
        Ok(())
    }

    /// An image with its discarded entries put back: these were committed.
    fn complete(&self, node: NodeId, image: Image) -> Result<Image> {
        let Image { hard_state, base, log } = image;
        let Some(gone) = self.ledger.get(..base.0 as usize) else {
            return Err(format!("{node} has discarded its log up to {base}, and not all of it is committed"));
        };
        Ok(Image { hard_state, base: Index::ZERO, log: [gone, &log].concat() })
    }

    /// A node restarts with the contents that its journal recovered. These must be everything synced, a prefix of the
    /// unsynced writes in order, and nothing else. If its disk has lied and then lost power, the entries after the lie
    /// may be missing. They then count as held until the node has them again, as with an older copy of its disk. Term
    /// and vote are stored twice, so a single lie loses neither. Returns whether anything is missing.
    pub fn recovers(&mut self, node: NodeId, recovered: Image) -> Result<bool> {
        let restarted = recovered.base.0 as usize;
        let recovered = self.complete(node, recovered)?;
        let life = &self.lives[&node];
        let writes: Vec<&Write> = life.unsynced.iter().collect();
        let fits = explains(&life.durable, &writes, &recovered, restarted, &self.ledger);
        let (now, then) = (recovered.hard_state, life.durable.hard_state);
        let lost = !fits
            && life.lie.as_ref().filter(|lie| lie.power).is_some_and(|lie| {
                let writes: Vec<&Write> = lie.since.iter().chain(&life.unsynced).collect();
                let keeps_vote = now.term > then.term || (now.term, now.vote) == (then.term, then.vote);
                keeps_vote && explains(&lie.held, &writes, &recovered, restarted, &self.ledger)
            });
        if !fits && !lost {
            let (held, promised) = (recovered.log.len(), life.durable.log.len());
            return Err(format!(
                "the journal of {node} recovered {held} entries and {now:?}; {promised} and {then:?} were synced, \
                 and no prefix of the unsynced writes explains the difference"
            ));
        }
        self.configurations.begins(node, &recovered.log);
        self.begins(node, recovered, lost);
        Ok(lost)
    }

    /// Begins a life with the recovered contents.
    fn begins(&mut self, node: NodeId, recovered: Image, lost: bool) {
        let life = self.life(node);
        let before = std::mem::take(life);
        let lie = before.lie.filter(|lie| !lie.power).map(|mut lie| {
            lie.since.extend(before.unsynced);
            lie
        });
        // After a lie only positions are in question: the node's term is unchanged.
        let told = Claims { term: recovered.hard_state.term, ..Claims::default() };
        *life = NodeHistory {
            ghost: before.ghost.or(lost.then_some(before.durable)),
            claims: before.claims,
            told: before.told.or(lost.then_some(told)),
            lie,
            durable: recovered.clone(),
            seen: recovered,
            ..NodeHistory::default()
        };
    }
}
