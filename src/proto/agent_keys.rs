//! OSSEC's file of agents and their keys, `client.keys`: what it says, and the keys that come of it.
//!
//! ```text
//!   ID NAME ADDRESS KEY        001 web-1 10.0.0.7 b3f0…     002 laptop any 77ac…     003 lab !10.9.0.0/16 04de…
//! ```
//!
//! Lines that begin with `#` or a blank are comments; a NAME that begins with `#` or `!` marks a removed agent. Of
//! several live lines with one id, or with one fixed address, the first counts, as for remoted. A line without its end
//! is not written yet. Nothing here says anything of a KEY but that it is there.
//!
//! A key of this protocol is HKDF with SHA-256 (RFC 5869) over KEY, without the blanks and the carriage return at its
//! end. Its `info` is a fixed label, the id and the name, each with its length: both ends have the same bytes there
//! wherever OSSEC works, while ADDRESS may differ.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::IpAddr;

use hkdf::Hkdf;
use ipnet::IpNet;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::proto::seal::Key;

/// Separates these keys from any other use of KEY.
const LABEL: &[u8] = b"ossec-broker agent key 1";
/// Longest id and name that OSSEC's own tools write, and more.
const FIELD_BYTES_MAX: usize = 256;

/// The addresses that an agent's datagrams may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// All of them.
    Any,
    /// This one alone: remoted knows the agent by it.
    One(IpAddr),
    /// Those in this network.
    In(IpNet),
    /// Those outside of this network.
    NotIn(IpNet),
}

impl Addresses {
    /// Whether an agent at this address may have the key.
    pub fn cover(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match self {
            Self::Any => true,
            Self::One(one) => one == address,
            Self::In(net) => net.contains(&address),
            Self::NotIn(net) => !net.contains(&address),
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        if text == "any" {
            return Some(Self::Any);
        }
        let (is_negated, text) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        let net: IpNet = match text.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().into(),
            Err(_) => text.parse::<IpNet>().ok()?.trunc(),
        };
        let is_one = net.prefix_len() == net.max_prefix_len();
        Some(match (is_negated, is_one) {
            (true, _) => Self::NotIn(net),
            (false, true) => Self::One(net.addr()),
            (false, false) => Self::In(net),
        })
    }
}

/// An agent that is not removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// The id, as it stands in the file.
    pub id: Vec<u8>,
    /// Where its datagrams may come from.
    pub addresses: Addresses,
    /// The key of this protocol.
    pub key: Key,
}

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentKeys {
    /// The live agents that count, in their order.
    pub agents: Vec<Agent>,
    /// Live lines that cannot be understood.
    pub strange: usize,
    /// The last line has no end.
    pub is_unfinished: bool,
}

impl AgentKeys {
    /// Understands the bytes of a file.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut keys = Self::default();
        let (mut ids, mut fixed) = (HashSet::new(), HashSet::new());
        let mut lines = bytes.split(|&byte| byte == b'\n');
        // What follows the last end of a line is empty, or a line without one.
        keys.is_unfinished = lines.next_back().is_some_and(|rest| !rest.is_empty());
        for line in lines {
            let agent = match parse(line) {
                Line::Nothing => continue,
                Line::Strange => {
                    keys.strange += 1;
                    continue;
                }
                Line::Live(agent) => agent,
            };
            let is_first = match agent.addresses {
                Addresses::One(address) if fixed.contains(&address) => false,
                _ => ids.insert(agent.id.clone()),
            };
            if is_first {
                if let Addresses::One(address) = agent.addresses {
                    fixed.insert(address);
                }
                keys.agents.push(agent);
            }
        }
        keys
    }
}

enum Line {
    Nothing,
    Strange,
    Live(Agent),
}

fn parse(line: &[u8]) -> Line {
    if line.trim_ascii().is_empty() || matches!(line[0], b'#' | b' ' | b'\t') {
        return Line::Nothing;
    }
    let mut fields = line.splitn(4, |&byte| byte == b' ');
    let (id, name) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    // In OSSEC `!` begins the name of a live agent, in Wazuh that of a removed one: such a key opens nothing.
    if name.starts_with(b"#") || name.starts_with(b"!") {
        return Line::Nothing;
    }
    let addresses = fields.next().and_then(|text| Addresses::from_text(std::str::from_utf8(text).ok()?));
    let key = fields.next().unwrap_or_default().trim_ascii_end();
    let is_fit = |field: &[u8]| !field.is_empty() && field.len() <= FIELD_BYTES_MAX;
    match addresses {
        Some(addresses) if is_fit(id) && is_fit(name) && !key.is_empty() => {
            Line::Live(Agent { id: id.to_vec(), addresses, key: derive(id, name, key) })
        }
        _ => Line::Strange,
    }
}

fn derive(id: &[u8], name: &[u8], key: &[u8]) -> Key {
    let mut info = LABEL.to_vec();
    for field in [id, name] {
        info.extend((field.len() as u16).to_be_bytes());
        info.extend_from_slice(field);
    }
    let mut derived = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, key).expand(&info, &mut *derived).expect("it is shorter than the longest output");
    Key::new(*derived)
}
