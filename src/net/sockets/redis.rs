//! Opens the Redis gateway, and reads commands from its connections.

use super::Net;
use super::gateway_kind::GatewayKind;
use crate::gateway::redis::connection::RedisConnection;
use crate::gateway::redis::dispatch::{RequestContext, handle_command};
use crate::gateway::redis::gateway::{ClusterView, MemberAddress, Options};
use crate::net::conn::ConnPhase;
use crate::net::protocol_counters::ClientProtocol;
use crate::types::{NodeId, Time};
use crate::wire::resp::CommandLimits;
use bytes::BytesMut;
use mio::Token;
use mio::net::TcpListener;
use std::io;
use std::net::SocketAddr;

impl Net {
    /// Opens the Redis gateway on a listening socket. Returns the address of the socket.
    pub fn open_redis(&mut self, listener: TcpListener, options: Options) -> io::Result<SocketAddr> {
        self.gateways.redis.options = options;
        self.gateways.open(self.poll.registry(), GatewayKind::Redis, listener)
    }

    /// Processes the complete commands of the input until reading is suspended. Returns false if the connection has to
    /// be closed at once.
    pub(super) fn process_redis_input(
        &mut self,
        now: Time,
        token: Token,
        redis: &mut RedisConnection,
        out: &mut BytesMut,
    ) -> bool {
        loop {
            let Some(mut conn) = self.connections.get_mut(token) else { return false };
            conn.has_unprocessed_input = redis.pipeline.is_full() || out.len() > self.options.client_output_pause_bytes;
            if conn.has_unprocessed_input || redis.pipeline.closes_when_empty || conn.phase() != ConnPhase::Open {
                return true;
            }
            let limits = if redis.client.is_authenticated {
                CommandLimits::AUTHENTICATED
            } else {
                CommandLimits::UNAUTHENTICATED
            };
            match redis.reader.next(conn.input(), limits) {
                Ok(None) => return true,
                Ok(Some(args)) => {
                    if redis.client.is_authenticated {
                        // A complete command ends the timeout. The next one starts with the next input.
                        conn.set_timeout(now, None);
                    }
                    redis.pipeline.tally.requests += 1;
                    let options = &self.gateways.redis.options;
                    let context =
                        RequestContext { now, options, cluster_view: &|| self.cluster_view(), stopping: self.stopping };
                    if !handle_command(redis, &args, out, &context) {
                        return false;
                    }
                }
                Err(error) => {
                    redis.pipeline.tally.requests += 1;
                    redis.push_error(out, &format!("ERR {error}"));
                    (redis.pipeline.closes_when_empty, redis.input_malformed) = (true, true);
                }
            }
        }
    }

    /// The address of this node's Redis gateway as `HOST:PORT`; `None` if the gateway is not open. It is the advertised
    /// address, or else the host of the node's native address with the port of the gateway.
    pub(super) fn redis_address(&self) -> Option<String> {
        let listen_address = self.gateways.address(GatewayKind::Redis)?;
        let advertised_address = || self.gateways.redis.options.advertised_address.clone();
        advertised_address().or_else(|| {
            Some(format!(
                "{}:{}",
                self.address_of(self.membership.me().node)?.rsplit_once(':')?.0,
                listen_address.port()
            ))
        })
    }

    /// Collects what the Redis commands about the cluster and the server report.
    fn cluster_view(&self) -> ClusterView {
        let member_address = |id: NodeId| {
            let native_address = self.address_of(id)?;
            let own_redis_address = (id == self.membership.me().node).then(|| self.redis_address().unwrap_or_default());
            match own_redis_address.or_else(|| self.gateways.redis.peer_address(id).cloned()) {
                Some(announced) => MemberAddress::from_announced(id, &announced, native_address),
                None => MemberAddress::with_default_port(id, native_address),
            }
        };
        let mut members: Vec<MemberAddress> =
            self.membership.members().voters.iter().filter_map(|id| member_address(*id)).collect();
        members.sort_by_key(|member| (self.membership.leader() != Some(member.node), member.node));
        ClusterView {
            node: self.membership.me().node,
            cluster: self.membership.me().cluster,
            leader: self.membership.leader(),
            members,
            voter_count: self.membership.members().voters.len(),
            follower_policy: self.gateways.redis.options.follower_policy,
            port: self.gateways.address(GatewayKind::Redis).map_or(0, |address| address.port()),
            client_count: self.connections.client_count(),
            clients_max: self.options.clients_max,
            accepted_clients: self.protocol_counters.accepted_clients(ClientProtocol::Redis),
            received_commands: self.protocol_counters.received_requests(ClientProtocol::Redis),
        }
    }
}
