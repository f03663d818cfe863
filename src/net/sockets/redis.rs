//! The Redis gateway's sockets: input becomes commands.

use super::Net;
use super::gateway_kind::GatewayKind;
use crate::gateway::redis::connection::RedisConnection;
use crate::gateway::redis::dispatch::{RequestContext, handle_reply};
use crate::gateway::redis::gateway::{ClusterView, MemberAddress, Options};
use crate::net::conn::Phase;
use crate::net::counting::Gateway;
use crate::types::{NodeId, Time};
use crate::wire::resp::Bounds;
use bytes::BytesMut;
use mio::Token;
use mio::net::TcpListener;
use std::io;
use std::net::SocketAddr;

impl Net {
    /// Opens the Redis gateway. Returns its address.
    pub fn open_redis(&mut self, listener: TcpListener, options: Options) -> io::Result<SocketAddr> {
        self.gateways.redis.options = options;
        self.gateways.open(self.poll.registry(), GatewayKind::Redis, listener)
    }

    /// Processes complete commands until the connection has to wait. Returns false if the connection has to be closed
    /// at once.
    pub(super) fn process_redis_input(
        &mut self,
        now: Time,
        token: Token,
        talk: &mut RedisConnection,
        out: &mut BytesMut,
    ) -> bool {
        loop {
            let Some(mut conn) = self.connections.get_mut(token) else { return false };
            conn.unprocessed = talk.pipeline.is_full() || out.len() > self.options.client_bytes_mark;
            if conn.unprocessed || talk.pipeline.leaving || conn.phase() != Phase::Open {
                return true;
            }
            let bounds = if talk.guest.known { Bounds::KNOWN } else { Bounds::UNKNOWN };
            match talk.reader.next(conn.input(), bounds) {
                Ok(None) => return true,
                Ok(Some(words)) => {
                    if talk.guest.known {
                        // A complete command arrived, so the timeout starts anew.
                        conn.wait_for(now, None);
                    }
                    talk.pipeline.tally.requests += 1;
                    let options = &self.gateways.redis.options;
                    let setting =
                        RequestContext { now, options, scene: &|| self.cluster_view(), stopping: self.stopping };
                    if !handle_reply(talk, &words, out, &setting) {
                        return false;
                    }
                }
                Err(wrong) => {
                    talk.pipeline.tally.requests += 1;
                    talk.complain(out, &format!("ERR {wrong}"));
                    (talk.pipeline.leaving, talk.broken) = (true, true);
                }
            }
        }
    }

    /// The address of this node's Redis gateway, if it is open: the advertised one, or else the host by which the
    /// members know this node with the port of its gateway.
    pub(super) fn redis_address(&self) -> Option<String> {
        let bound = self.gateways.address(GatewayKind::Redis)?;
        let advertised = || self.gateways.redis.options.advertised.clone();
        advertised().or_else(|| {
            Some(format!("{}:{}", self.place(self.membership.me().node)?.rsplit_once(':')?.0, bound.port()))
        })
    }

    /// What this node knows of itself and its cluster.
    fn cluster_view(&self) -> ClusterView {
        let place = |id: NodeId| {
            let native = self.place(id)?;
            let own = (id == self.membership.me().node).then(|| self.redis_address().unwrap_or_default());
            match own.or_else(|| self.gateways.redis.peer_address(id).cloned()) {
                Some(announced) => MemberAddress::at(id, &announced, native),
                None => MemberAddress::beside(id, native),
            }
        };
        let mut places: Vec<MemberAddress> =
            self.membership.members().voters.iter().filter_map(|id| place(*id)).collect();
        places.sort_by_key(|place| (self.membership.leader() != Some(place.node), place.node));
        ClusterView {
            node: self.membership.me().node,
            cluster: self.membership.me().cluster,
            leader: self.membership.leader(),
            places,
            voters: self.membership.members().voters.len(),
            follower: self.gateways.redis.options.follower,
            port: self.gateways.address(GatewayKind::Redis).map_or(0, |address| address.port()),
            clients: self.connections.clients(),
            clients_max: self.options.clients_max,
            accepted: self.counting.clients(Gateway::Redis),
            commands: self.counting.requests(Gateway::Redis),
        }
    }
}
