//! What an operator asks and orders about peers.

use core::{num::NonZeroU64, time::Duration};
use peerage_core::{CloseReason, NodeId};
use peerage_discovery::Command as DiscoveryCommand;
use peerage_transport::{
    driver::Bandwidth,
    proto::{
        managed::ManagedCommand,
        peer_manager::{PeerCommand, PeerLimits, PeerManager, Subject},
    },
};
use std::collections::BTreeMap;

use super::{Node, names::Names, stopping};
use crate::{
    config::{LONGEST_WAIT, MOST_PEERS, least_limit},
    control::{
        BanState, ErrorCode, Happening, LimitChange, Limits, List, Lists, NotDialled, Peer, PeerOrder, Refusal,
        Response, Story,
    },
    stack::OverlayCommand,
};

/// The longest ban that can be ordered: ten years (our guess; what shall never end belongs into `deny`).
const LONGEST_ORDERED_BAN: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Lines of one list at most (our guess: a list is told as a whole to each who asks, and sorted anew with each change).
const MOST_LINES: usize = 4096;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn absent(what: impl core::fmt::Display) -> Refusal {
    Refusal::new(ErrorCode::Absent, what)
}

impl Node {
    /// Looks at the peer manager.
    async fn manager<R: Send + 'static>(
        &self,
        look: impl FnOnce(&PeerManager) -> R + Send + 'static,
    ) -> Result<R, Refusal> {
        self.handle.inspect(|stack| look(stack.peers())).await.map_err(stopping)
    }

    async fn manage(&self, command: PeerCommand) -> Result<(), Refusal> {
        self.handle.command(ManagedCommand::Peers(command)).await.map_err(stopping)?;
        // Whoever hears that it is done may rely on it.
        self.manager(|_| ()).await
    }

    /// Whether something is so of the peer manager, or else what is said of it.
    async fn only_if(
        &self,
        holds: impl FnOnce(&PeerManager) -> bool + Send + 'static,
        else_say: String,
    ) -> Result<(), Refusal> {
        if self.manager(holds).await? { Ok(()) } else { Err(absent(else_say)) }
    }

    pub(super) async fn peers(&self) -> Result<Response, Refusal> {
        let now = self.clock.now();
        let links = self.handle.links();
        let owed: BTreeMap<_, _> = links.into_iter().filter_map(|link| Some((link.peer?, link.owed))).collect();
        let peers = self.handle.inspect(move |stack| {
            let heads: BTreeMap<_, _> = stack.upper().chain().status().peers.into_iter().collect();
            let manager = stack.peers();
            let peers = manager.peers().map(|peer| Peer {
                id: peer.info.peer,
                addr: peer.info.remote,
                outbound: peer.info.outbound,
                standing: manager.standing(peer).label().to_owned(),
                rtt_micros: peer.stats.map(|stats| u64::try_from(stats.rtt.as_micros()).unwrap_or(u64::MAX)),
                timing: peer.stats.map(Into::into),
                head: heads.get(&peer.info.peer).copied().flatten().map(Into::into),
                connected_ms: millis(now.mono.since(peer.since)),
                owed_bytes: owed.get(&peer.info.peer).copied().unwrap_or(0),
                points: manager.points(now, peer.info.peer),
            });
            peers.collect()
        });
        Ok(Response::Peers(peers.await.map_err(stopping)?))
    }

    pub(super) async fn bans(&self) -> Result<Response, Refusal> {
        let wall = self.clock.now().wall;
        let bans = self.manager(move |manager| manager.bans(wall)).await?;
        let state = |ban: peerage_transport::proto::peer_manager::Ban| BanState {
            subject: ban.subject,
            until_unix_ms: ban.until,
            times: ban.times,
            by_hand: ban.by_hand,
        };
        Ok(Response::Bans(bans.into_iter().map(state).collect()))
    }

    pub(super) async fn lists(&self) -> Result<Response, Refusal> {
        let lists = self.manager(|manager| Lists {
            allow: manager.allow().to_vec(),
            deny: manager.deny().to_vec(),
            reserved: manager.reserved().map(|known| known.peer).collect(),
            trusted: manager.trusted().collect(),
        });
        Ok(Response::Lists(lists.await?))
    }

    /// Changes what is named and answers with what holds then.
    pub(super) async fn limits(&self, change: LimitChange) -> Result<Response, Refusal> {
        let _alone = self.orders.lock().await;
        let before = self.manager(PeerManager::limits).await?;
        let after = PeerLimits {
            target_outbound: change.target_peers.unwrap_or(before.target_outbound),
            max_peers: change.max_peers.unwrap_or(before.max_peers),
            outbound_per_group: change.outbound_per_group.unwrap_or(before.outbound_per_group),
            acquire_timeout: change.acquire_timeout_ms.map_or(before.acquire_timeout, Duration::from_millis),
            idle_timeout: change.idle_timeout_ms.map_or(before.idle_timeout, Duration::from_millis),
        };
        if after != before {
            sensible(after)?;
            self.affordable(after.max_peers)?;
            tracing::info!(?after, "the operator changed the limits");
            // Discovery, which looks for peers while there are fewer, has its own number.
            let wanted = OverlayCommand::Discovery(DiscoveryCommand::SetTarget(after.target_outbound));
            self.handle.command(ManagedCommand::Upper(wanted)).await.map_err(stopping)?;
            self.manage(PeerCommand::Limits(after)).await?;
        }
        let (limits, outbound, all) = self
            .manager(|manager| {
                let outbound = manager.peers().filter(|peer| peer.info.outbound).count();
                (manager.limits(), outbound, manager.peers().count())
            })
            .await?;
        let budget = self.handle.budget();
        Ok(Response::Limits(Limits {
            target_peers: limits.target_outbound,
            max_peers: limits.max_peers,
            outbound_per_group: limits.outbound_per_group,
            acquire_timeout_ms: millis(limits.acquire_timeout),
            idle_timeout_ms: millis(limits.idle_timeout),
            budget_bytes: budget.cap,
            outbound,
            inbound: all - outbound,
            links: self.handle.links().len(),
            resident_bytes: budget.resident,
        }))
    }

    /// The rule of [`Self::bandwidth`] holds for more peers, too.
    fn affordable(&self, max_peers: usize) -> Result<(), Refusal> {
        let (report, least) = (self.handle.bandwidth(), least_limit(max_peers));
        match [report.egress.limit, report.ingress.limit].into_iter().flatten().find(|limit| limit.get() < least) {
            None => Ok(()),
            Some(limit) => {
                let words = format!(
                    "max_peers: {max_peers} need {least} bytes a second at least, and `peerage bandwidth` has a limit of {limit}"
                );
                Err(Refusal::new(ErrorCode::BadRequest, words))
            }
        }
    }

    /// Changes what is named and answers with what holds then.
    pub(super) async fn bandwidth(&self, egress: Option<u64>, ingress: Option<u64>) -> Result<Response, Refusal> {
        // What is not named stays as another operator set it just before.
        let _alone = self.orders.lock().await;
        let max_peers = self.manager(PeerManager::limits).await?.max_peers;
        let least = least_limit(max_peers);
        if let Some(low) = [egress, ingress].into_iter().flatten().find(|limit| (1..least).contains(limit)) {
            let words = format!(
                "a node needs {least} bytes a second at least, not {low}, with `max_peers` at {max_peers}; 0 is no limit"
            );
            return Err(Refusal::new(ErrorCode::BadRequest, words));
        }
        let report = self.handle.bandwidth();
        let before = Bandwidth { egress: report.egress.limit, ingress: report.ingress.limit };
        let after = Bandwidth {
            egress: egress.map_or(before.egress, NonZeroU64::new),
            ingress: ingress.map_or(before.ingress, NonZeroU64::new),
        };
        if after != before {
            tracing::info!(?after, "the operator changed the limits of bandwidth");
            self.handle.limit_bandwidth(after);
        }
        Ok(Response::Bandwidth(self.handle.bandwidth().into()))
    }

    /// What happened between the node and a peer, and what is in the way of a dial just now.
    pub(super) async fn why(&self, peer: NodeId) -> Result<Response, Refusal> {
        let now = self.clock.now();
        let story = self.handle.inspect(move |stack| {
            let happenings = stack.recorder().flight(&peer).map(|entry| Happening {
                unix_millis: entry.at.0,
                what: entry.what.label().to_owned(),
                reason: entry.what.reason().map(str::to_owned),
                words: entry.what.to_string(),
                times: entry.times,
            });
            let not_dialled = stack.peers().why_not(now, &peer);
            let not_dialled =
                not_dialled.map(|why| NotDialled { reason: why.label().to_owned(), words: why.to_string() });
            Story { happenings: happenings.collect(), not_dialled }
        });
        Ok(Response::Why(story.await.map_err(stopping)?))
    }

    pub(super) async fn order(&self, order: PeerOrder) -> Result<Response, Refusal> {
        // A list is read, changed and given back: one operator at a time.
        let _alone = self.orders.lock().await;
        tracing::info!(?order, "the operator orders");
        let wall = self.clock.now().wall;
        let command = match order {
            PeerOrder::Ban { seconds, .. } if Duration::from_secs(seconds) > LONGEST_ORDERED_BAN => {
                let words = "a ban lasts ten years at most; what shall never end belongs into `deny`";
                return Err(Refusal::new(ErrorCode::BadRequest, words));
            }
            PeerOrder::Ban { subject, seconds } => {
                if let Subject::Peer(peer) = subject {
                    let named = move |manager: &PeerManager| {
                        manager.reserved().any(|known| known.peer == peer) || manager.trusted().any(|id| id == peer)
                    };
                    if self.manager(named).await? {
                        let words = "whom the operator names as reserved or trusted is never banned: `release` or \
                                     `distrust` it first";
                        return Err(Refusal::new(ErrorCode::BadRequest, words));
                    }
                }
                if let Err(why) = self.manager(move |manager| manager.may_ban(wall, &subject)).await? {
                    return Err(Refusal::new(ErrorCode::BadRequest, why));
                }
                PeerCommand::Ban { subject, lasting: Duration::from_secs(seconds) }
            }
            PeerOrder::Unban { subject } => {
                let banned = move |manager: &PeerManager| manager.bans(wall).iter().any(|ban| ban.subject == subject);
                self.only_if(banned, format!("{subject} is not banned")).await?;
                PeerCommand::Unban(subject)
            }
            PeerOrder::Disconnect { peer } => {
                self.only_if(move |manager| manager.peer(&peer).is_some(), format!("{peer} is not connected")).await?;
                PeerCommand::Disconnect { peer, reason: CloseReason::Requested }
            }
            PeerOrder::Reserve { peer } => {
                let names = Names::resolve(core::slice::from_ref(&peer), "reserved peer").await;
                let Some(known) = names.known().into_iter().find(|known| !known.addrs.is_empty()) else {
                    let words = format!("{} does not resolve: check the name", peer.host());
                    return Err(Refusal::new(ErrorCode::BadRequest, words));
                };
                PeerCommand::Reserve(known)
            }
            PeerOrder::Release { peer } => {
                let reserved = move |manager: &PeerManager| manager.reserved().any(|known| known.peer == peer);
                self.only_if(reserved, format!("{peer} is not reserved")).await?;
                PeerCommand::Release(peer)
            }
            PeerOrder::Trust { peer } => PeerCommand::Trust(peer, true),
            PeerOrder::Distrust { peer } => {
                self.only_if(move |manager| manager.trusted().any(|id| id == peer), format!("{peer} is not trusted"))
                    .await?;
                PeerCommand::Trust(peer, false)
            }
            PeerOrder::Add { list, rule } => {
                let mut rules = self.rules(list).await?;
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
                if rules.len() > MOST_LINES {
                    let words = format!("a list has {MOST_LINES} lines at most: name ranges instead of addresses");
                    return Err(Refusal::new(ErrorCode::BadRequest, words));
                }
                of_list(list, rules)
            }
            PeerOrder::Remove { list, rule } => {
                let mut rules = self.rules(list).await?;
                let before = rules.len();
                rules.retain(|line| *line != rule);
                if rules.len() == before {
                    return Err(absent(format_args!("{rule} is not on the list `{}`", list.label())));
                }
                of_list(list, rules)
            }
        };
        self.manage(command).await?;
        Ok(Response::Done)
    }

    async fn rules(&self, list: List) -> Result<Vec<peerage_transport::proto::peer_manager::Rule>, Refusal> {
        self.manager(move |manager| match list {
            List::Allow => manager.allow().to_vec(),
            List::Deny => manager.deny().to_vec(),
        })
        .await
    }
}

const fn of_list(list: List, rules: Vec<peerage_transport::proto::peer_manager::Rule>) -> PeerCommand {
    match list {
        List::Allow => PeerCommand::Allow(rules),
        List::Deny => PeerCommand::Deny(rules),
    }
}

/// The rules of `config.toml` hold for what is changed later, too.
fn sensible(limits: PeerLimits) -> Result<(), Refusal> {
    let PeerLimits { target_outbound, max_peers, outbound_per_group, acquire_timeout, idle_timeout } = limits;
    let words = match () {
        () if !(1..=MOST_PEERS).contains(&max_peers) => format!("max_peers: 1 to {MOST_PEERS} are possible"),
        () if !(1..=max_peers).contains(&target_outbound) => {
            format!("target_peers: 1 to {max_peers} (`max_peers`) are possible")
        }
        () if outbound_per_group == 0 => "outbound_per_group: 1 is the least".to_owned(),
        () if acquire_timeout.max(idle_timeout) > LONGEST_WAIT => "a timeout has an hour at most".to_owned(),
        () => return Ok(()),
    };
    Err(Refusal::new(ErrorCode::BadRequest, words))
}
