//! Host interfaces moved into the container (config-linux.md, "Network Devices"; rtnetlink(7)).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use corten_sys::Call as _;
use corten_sys::namespace::{self, setns};
use corten_types::runtime_spec::NetDevice;
use corten_types::{Context as _, Error, ErrorKind, Result};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use rustix::process::Pid;

/// Longest interface name, bytes (`IFNAMSIZ` less its NUL).
const NAME_LENGTH_MAX: usize = 15;

/// Checks names before anything is made.
pub(crate) fn check(devices: &BTreeMap<String, NetDevice>) -> Result<()> {
    let mut taken = BTreeSet::new();
    for (name, device) in devices {
        for (field, name) in [("", name), (".name", &device.name)] {
            let absent = field == ".name" && name.is_empty();
            let sound = !name.is_empty()
                && name.len() <= NAME_LENGTH_MAX
                && !matches!(name.as_str(), "." | "..")
                && !name
                    .chars()
                    .any(|letter| letter == '/' || letter == ':' || letter.is_whitespace() || letter == '\0');
            if !absent && !sound {
                return Err(Error::invalid(format!(
                    "`linux.netDevices` has an entry with a bad interface name: `{name}`"
                )));
            }
        }
        let inside = inside_name(name, device);
        if !inside.contains("%d") && !taken.insert(inside) {
            return Err(Error::invalid(format!("`linux.netDevices` gives the name `{inside}` twice")));
        }
    }
    Ok(())
}

fn inside_name<'a>(name: &'a str, device: &'a NetDevice) -> &'a str {
    if device.name.is_empty() { name } else { &device.name }
}

/// Moves every interface into the network namespace of `pid`, keeps its permanent addresses and brings it up.
pub(crate) fn move_all(devices: &BTreeMap<String, NetDevice>, pid: Pid) -> Result<()> {
    let target = open_namespace(&format!("/proc/{}/ns/net", pid.as_raw_nonzero()))?;
    let own = open_namespace("/proc/self/ns/net")?;
    let mut host = Netlink::open()?;
    let mut inside = in_namespace(&own, &target, Netlink::open)?;
    for (name, device) in devices {
        let to = inside_name(name, device);
        move_one(&mut host, &mut inside, &target, name, to)
            .context(|| format!("cannot move the interface `{name}` into the container as `{to}`"))?;
    }
    Ok(())
}

fn move_one(host: &mut Netlink, inside: &mut Netlink, target: &OwnedFd, name: &str, to: &str) -> Result<()> {
    let index = host.index(name)?.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no interface `{name}`")))?;
    if !to.contains("%d") && inside.index(to)?.is_some() {
        return Err(Error::new(ErrorKind::AlreadyExists, format!("the container already has an interface `{to}`"))
            .hint("end the name in `%d` to have the kernel choose a number"));
    }
    let addresses = host.permanent_addresses(index)?;
    host.set_link(index, |link| link.header.change_mask = LinkFlags::Up)?;
    let before = inside.indexes()?;
    host.set_link(index, |link| {
        link.attributes.push(LinkAttribute::NetNsFd(target.as_raw_fd()));
        link.attributes.push(LinkAttribute::IfName(to.to_owned()));
    })?;
    // Neither its number nor, with `%d`, its name is known: it is the one that was not there.
    let arrived = inside.indexes()?.difference(&before).next().copied();
    let arrived = arrived.ok_or_else(|| Error::new(ErrorKind::Internal, "the interface did not arrive"))?;
    for address in addresses {
        inside.add_address(arrived, address)?;
    }
    inside.set_link(arrived, |link| {
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
    })
}

fn open_namespace(path: &str) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).call(|| format!("open(\"{path}\")"))
}

/// Runs `body` in another network namespace. Only for a process with one thread.
fn in_namespace<T>(own: &OwnedFd, target: &OwnedFd, body: impl FnOnce() -> Result<T>) -> Result<T> {
    setns(target.as_fd(), namespace::NEWNET).call(|| "setns(<container's network>)")?;
    let result = body();
    setns(own.as_fd(), namespace::NEWNET).call(|| "setns(<own network>)")?;
    result
}

/// One rtnetlink socket, one request at a time.
struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    fn open() -> Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .call(|| "socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)")?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The interface's number; `None` where there is none of this name.
    fn index(&mut self, name: &str) -> Result<Option<u32>> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.ask(RouteNetlinkMessage::GetLink(link), 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
                _ => None,
            })),
            // ENODEV
            Err(error) if error.errno() == Some(19) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn indexes(&mut self) -> Result<BTreeSet<u32>> {
        let answers = self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        let indexes = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
            _ => None,
        });
        Ok(indexes.collect())
    }

    fn set_link(&mut self, index: u32, change: impl FnOnce(&mut LinkMessage)) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        change(&mut link);
        self.ask(RouteNetlinkMessage::SetLink(link), NLM_F_ACK).map(drop)
    }

    /// What was set by hand and reaches everywhere; what the kernel made itself it makes again.
    fn permanent_addresses(&mut self, index: u32) -> Result<Vec<AddressMessage>> {
        let answers = self.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)?;
        let kept = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(address)
                if address.header.index == index
                    && address.header.scope == AddressScope::Universe
                    && address.header.flags.contains(AddressHeaderFlags::Permanent) =>
            {
                Some(address)
            }
            _ => None,
        });
        Ok(kept.collect())
    }

    fn add_address(&mut self, index: u32, mut address: AddressMessage) -> Result<()> {
        address.header.index = index;
        address.attributes.retain(|attribute| {
            matches!(
                attribute,
                AddressAttribute::Address(_) | AddressAttribute::Local(_) | AddressAttribute::Broadcast(_)
            )
        });
        address.attributes.push(AddressAttribute::Flags(AddressFlags::Permanent));
        self.ask(RouteNetlinkMessage::NewAddress(address), NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }

    fn ask(&mut self, request: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(&self.socket, &bytes, SendFlags::empty()).call(|| "send(<rtnetlink>)")?;
        self.answers(flags & (NLM_F_DUMP | NLM_F_ACK) == 0)
    }

    /// Reads until the kernel says that it is done; `single` where one answer without an acknowledgement comes.
    fn answers(&self, single: bool) -> Result<Vec<RouteNetlinkMessage>> {
        let mut answers = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let (_, length) = rustix::io::retry_on_intr(|| recv(&self.socket, &mut buffer[..], RecvFlags::empty()))
                .call(|| "recv(<rtnetlink>)")?;
            let mut rest = &buffer[..length.min(64 * 1024)];
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(|error| {
                    Error::new(ErrorKind::Internal, format!("malformed answer of rtnetlink: {error}"))
                })?;
                let step = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
                rest = rest.get(step..).unwrap_or_default();
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(Error::syscall("rtnetlink", error.raw_code().abs()));
                    }
                    _ => return Ok(answers),
                }
            }
            if single && !answers.is_empty() {
                return Ok(answers);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_not_given_twice() {
        let device = |name: &str| NetDevice { name: name.to_owned() };
        assert!(
            check(&BTreeMap::from([("eth0".to_owned(), device("")), ("eth1".to_owned(), device("net%d"))])).is_ok()
        );
        for bad in ["a/b", "a b", "0123456789abcdef", ".."] {
            assert!(check(&BTreeMap::from([("eth0".to_owned(), device(bad))])).is_err(), "{bad}");
        }
        assert!(check(&BTreeMap::from([("a".to_owned(), device("x")), ("b".to_owned(), device("x"))])).is_err());
    }
}
