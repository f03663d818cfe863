//! The Redis door's sockets: bytes into commands.

use super::doors::Door;
use super::{Net, find};
use crate::net::resp::door::{Cursors, Options, Place, Scene};
use crate::net::resp::hearing::{Setting, hear};
use crate::net::resp::talk::Talk;
use crate::types::{NodeId, Time};
use crate::wire::resp::Bounds;
use bytes::BytesMut;
use mio::Token;
use mio::net::TcpListener;
use std::io;
use std::net::SocketAddr;

/// What Redis connections share.
#[derive(Debug, Default)]
pub struct Redis {
    /// How the door is set.
    pub options: Options,
    /// Where scans go on.
    pub cursors: Cursors,
    commands: u64,
}

impl Net {
    /// Lets Redis clients in too. Says where.
    pub fn open_redis(&mut self, listener: TcpListener, options: Options) -> io::Result<SocketAddr> {
        self.redis.options = options;
        self.open_door(Door::Redis, listener)
    }

    /// Hears the commands that are whole, until it is enough for now. False if the connection is to be closed at
    /// once.
    pub(super) fn converse_redis(&mut self, now: Time, token: Token, talk: &mut Talk, out: &mut BytesMut) -> bool {
        loop {
            let Some(conn) = find(&mut self.conns, token) else { return false };
            conn.unheard = talk.pipeline.is_full() || out.len() > self.options.client_bytes_mark;
            if conn.unheard || talk.pipeline.leaving || conn.farewell {
                return true;
            }
            let bounds = if talk.guest.known { Bounds::KNOWN } else { Bounds::UNKNOWN };
            match talk.reader.next(conn.input(), bounds) {
                Ok(None) => return true,
                Ok(Some(words)) => {
                    if talk.guest.known {
                        // It has kept its word: patience begins anew.
                        conn.wait_for(now, None);
                    }
                    self.redis.commands += 1;
                    let Redis { options, cursors, .. } = &self.redis;
                    let setting = Setting { now, options, cursors, scene: &|| self.scene(), stopping: self.stopping };
                    if !hear(talk, &words, out, &setting) {
                        return false;
                    }
                }
                Err(wrong) => {
                    talk.complain(out, &format!("ERR {wrong}"));
                    talk.pipeline.leaving = true;
                }
            }
        }
    }

    /// What the node knows of itself and its cluster.
    fn scene(&self) -> Scene {
        let place = |id: NodeId| self.place(id).and_then(|address| Place::of(id, address));
        let mut places: Vec<Place> = self.admission.members().voters.iter().filter_map(|id| place(*id)).collect();
        let own = self.doors.address(Door::Redis);
        for place in places.iter_mut().filter(|place| place.node == self.me.node) {
            place.port = own.map_or(place.port, |own| own.port());
        }
        places.sort_by_key(|place| (self.admission.leader() != Some(place.node), place.node));
        Scene {
            node: self.me.node,
            cluster: self.me.cluster,
            leader: self.admission.leader(),
            places,
            clients: self.clients,
            commands: self.redis.commands,
        }
    }
}
