//! Cgroups that systemd makes: a transient scope around the container's first process.
//!
//! `linux.cgroupsPath` is then `SLICE:PREFIX:NAME`: the unit `PREFIX-NAME.scope` in the slice `SLICE` (`system.slice`, or
//! `user.slice` of the user's own systemd). A slice's dashes are its place: `a-b.slice` lies in `a.slice`.

mod annotations;
mod bus;
mod properties;

use std::path::Path;

use corten_types::runtime_spec::Resources;
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::process::{Pid, geteuid};
use serde::{Deserialize, Serialize};

use super::Request;
use super::devices::Policy;
use bus::{Argument, Bus, Property, Target, Value};

const SYSTEM_SOCKET: &str = "/run/dbus/system_bus_socket";

/// Exists where systemd is the init (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// The first version whose scopes have `OOMPolicy`.
const OOM_POLICY: u32 = 253;

/// Longest name of a unit, bytes.
const UNIT_NAME_BYTES_MAX: usize = 255;

const MANAGER: Target<'static> = Target {
    peer: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};

/// A unit of systemd's, existing or planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Scope {
    unit: String,
    slice: String,
    socket: String,
    /// In the first user namespace: what the bus knows us by.
    uid: u32,
    /// Whether the unit was made.
    #[serde(default)]
    pub(super) started: bool,
}

impl Scope {
    /// Decides on the unit, checks what annotations ask of it, and tells where its cgroup will be beneath the mount point.
    pub(super) fn plan(request: &Request<'_>) -> Result<(Self, String)> {
        if !Path::new(BOOTED).is_dir() {
            return Err(Error::new(ErrorKind::Unsupported, "systemd does not run on this host")
                .hint("leave `--systemd-cgroup` out: the cgroups are then made directly"));
        }
        let uid = outer_uid(geteuid().as_raw(), &std::fs::read_to_string("/proc/self/uid_map")?);
        let (slice, unit) = names(request)?;
        annotations::properties(request.annotations)?;
        let socket = if request.rootless { format!("/run/user/{uid}/bus") } else { SYSTEM_SOCKET.to_owned() };
        let scope = Self { unit, slice, socket, uid, started: false };
        let path = format!("{}/{}", expand(&scope.slice)?, scope.unit);
        // The user's systemd lives in a cgroup of its own.
        let above = if request.rootless { scope.connect()?.property("ControlGroup")? } else { String::new() };
        let path = format!("{}/{path}", above.trim_matches('/'));
        Ok((scope, path.trim_start_matches('/').to_owned()))
    }

    /// Has systemd make the unit around `pid` with the limits and properties that `request` asks for.
    pub(super) fn start(&mut self, pid: Pid, request: &Request<'_>, policy: &Policy, unified: bool) -> Result<()> {
        let none = Resources::default();
        let resources = request.resources.unwrap_or(&none);
        let asked = annotations::properties(request.annotations)?;
        let mut connection = self.connect()?;
        let version = connection.version();
        let mut list = self.unit_properties(pid, resources, unified, version);
        list.extend(properties::of(resources, unified, version)?);
        list.extend(properties::devices(policy));
        let result = match connection.start(&self.unit, &list, &asked) {
            // What failed earlier under the same name is in the way until it is forgotten.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                connection.forget(&self.unit);
                connection.start(&self.unit, &list, &asked)
            }
            result => result,
        };
        result.context(|| format!("systemd cannot start the unit `{}`", self.unit))?;
        self.started = true;
        Ok(())
    }

    fn unit_properties(&self, pid: Pid, resources: &Resources, unified: bool, version: u32) -> Vec<Property> {
        let io = if unified { "IOAccounting" } else { "BlockIOAccounting" };
        let mut list = vec![
            ("Description", Value::Text(format!("Corten container {}", self.unit.trim_end_matches(".scope")))),
            ("Slice", Value::Text(self.slice.clone())),
            ("Delegate", Value::Flag(true)),
            ("PIDs", Value::Numbers(vec![pid.as_raw_nonzero().get().unsigned_abs()])),
            ("MemoryAccounting", Value::Flag(true)),
            ("CPUAccounting", Value::Flag(true)),
            (io, Value::Flag(true)),
            ("TasksAccounting", Value::Flag(true)),
            ("DefaultDependencies", Value::Flag(false)),
        ];
        let group = resources.unified.get("memory.oom.group").map(|value| value.trim());
        if let Some(group) = group.filter(|group| version >= OOM_POLICY && ["0", "1"].contains(group)) {
            let policy = if group == "1" { "kill" } else { "continue" };
            list.push(("OOMPolicy", Value::Text(policy.to_owned())));
        }
        list
    }

    /// Tells systemd the new limits of the living unit.
    pub(super) fn update(&self, resources: &Resources, policy: Option<&Policy>, unified: bool) -> Result<()> {
        let mut connection = self.connect()?;
        let mut list = properties::of(resources, unified, connection.version())?;
        if let Some(policy) = policy {
            list.extend(properties::devices(policy));
        }
        if list.is_empty() {
            return Ok(());
        }
        let arguments = [Argument::Text(&self.unit), Argument::Flag(true), Argument::Properties(&list, &[])];
        let result = connection.bus.call(MANAGER, "SetUnitProperties", &arguments).map(drop);
        result.context(|| format!("systemd cannot change the unit `{}`", self.unit))
    }

    /// Has systemd end the unit; one that is gone is no error.
    pub(super) fn stop(&self) -> Result<()> {
        let mut connection = self.connect()?;
        let result = connection.job("StopUnit", &[Argument::Text(&self.unit), Argument::Text("replace")]);
        connection.forget(&self.unit);
        match result {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.context(|| format!("systemd cannot stop the unit `{}`", self.unit)),
        }
    }

    fn connect(&self) -> Result<Connection> {
        let bus = Bus::connect(&self.socket, self.uid)
            .map_err(|error| error.hint("is the message bus running? without it leave `--systemd-cgroup` out"))?;
        Ok(Connection { bus })
    }
}

/// A conversation with systemd.
struct Connection {
    bus: Bus,
}

impl Connection {
    fn start(&mut self, unit: &str, properties: &[Property], asked: &[(String, Value)]) -> Result<()> {
        let properties = Argument::Properties(properties, asked);
        let arguments = [Argument::Text(unit), Argument::Text("replace"), properties, Argument::NoUnits];
        self.job("StartTransientUnit", &arguments)
    }

    /// Calls a method that begins a job, and waits for the job's end.
    fn job(&mut self, method: &str, arguments: &[Argument<'_>]) -> Result<()> {
        let rule = format!("type='signal',interface='{}',member='JobRemoved'", MANAGER.interface);
        self.bus.watch(&rule)?;
        let job = self.bus.call(MANAGER, method, arguments)?.reader().text()?;
        loop {
            let signal = self.bus.signal()?;
            if signal.member != "JobRemoved" || signal.path != MANAGER.path {
                continue;
            }
            let mut reader = signal.reader();
            reader.u32()?;
            if reader.text()? != job {
                continue;
            }
            reader.text()?;
            return match reader.text()?.as_str() {
                "done" => Ok(()),
                result => Err(Error::new(ErrorKind::Internal, format!("{method}() ended with `{result}`"))
                    .hint("`journalctl -b` says why")),
            };
        }
    }

    fn forget(&mut self, unit: &str) {
        match self.bus.call(MANAGER, "ResetFailedUnit", &[Argument::Text(unit)]) {
            // Most often there is nothing to forget.
            Ok(_) | Err(_) => {}
        }
    }

    fn property(&mut self, name: &str) -> Result<String> {
        let target = Target { interface: "org.freedesktop.DBus.Properties", ..MANAGER };
        let reply = self.bus.call(target, "Get", &[Argument::Text(MANAGER.interface), Argument::Text(name)])?;
        let mut reader = reply.reader();
        match reader.signature()?.as_str() {
            "s" => reader.text(),
            other => Err(Error::new(ErrorKind::Corrupt, format!("systemd's `{name}` has the type `{other}`"))),
        }
    }

    /// `252` of `252.38-1~deb12u1`; 0 where it cannot be told: only what every version knows is used then.
    fn version(&mut self) -> u32 {
        self.property("Version").map_or(0, |text| parse_version(&text))
    }
}

fn parse_version(text: &str) -> u32 {
    let text = text.trim_start_matches(['v', '"']);
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().unwrap_or(0)
}

/// The slice and the unit that the document names.
fn names(request: &Request<'_>) -> Result<(String, String)> {
    let default = if request.rootless { "user.slice" } else { "system.slice" };
    let (slice, prefix, name) = match request.cgroups_path {
        "" => (default, "corten", request.id),
        path => match path.split(':').collect::<Vec<_>>()[..] {
            [slice, prefix, name] => (if slice.is_empty() { default } else { slice }, prefix, name),
            _ => {
                let message =
                    format!("`linux.cgroupsPath` is `{}`: with systemd it is `SLICE:PREFIX:NAME`", path.escape_debug());
                return Err(Error::invalid(message).hint("`system.slice:corten:NAME`, or leave `--systemd-cgroup` out"));
            }
        },
    };
    let unit = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
    if name.is_empty() || name.ends_with(".slice") || unit.len() > UNIT_NAME_BYTES_MAX || !unit.chars().all(names_unit)
    {
        return Err(Error::invalid(format!(
            "`linux.cgroupsPath` makes `{}`, which cannot name a scope",
            unit.escape_debug()
        ))
        .hint("letters, digits and `:-_.\\@` name a unit, at most 255 of them"));
    }
    Ok((slice.to_owned(), unit))
}

/// The cgroup of a slice, without slashes around: `a-b.slice` is `a.slice/a-b.slice`; that of `-.slice` is the root.
fn expand(slice: &str) -> Result<String> {
    let bad =
        || Error::invalid(format!("`linux.cgroupsPath` names the slice `{}`, which is none", slice.escape_debug()));
    let name = slice.strip_suffix(".slice").ok_or_else(|| bad().hint("its name ends in `.slice`"))?;
    if name == "-" {
        return Ok(String::new());
    }
    if name.split('-').any(str::is_empty) || !name.chars().all(names_unit) || slice.len() > UNIT_NAME_BYTES_MAX {
        return Err(bad());
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    Ok(ends.map(|end| format!("{}.slice", &name[..end])).collect::<Vec<_>>().join("/"))
}

fn names_unit(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || ":-_.\\@".contains(letter)
}

/// The user that `uid` of this user namespace is in the first one, as far as one map tells.
fn outer_uid(uid: u32, map: &str) -> u32 {
    let row = |line: &str| {
        let mut words = line.split_whitespace().map(|word| word.parse::<u32>().ok());
        let (inner, outer, count) = (words.next()??, words.next()??, words.next()??);
        let offset = uid.checked_sub(inner).filter(|offset| *offset < count)?;
        outer.checked_add(offset)
    };
    map.lines().find_map(row).unwrap_or(uid)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader};
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    use super::super::Cgroup;
    use super::*;

    static NONE: BTreeMap<String, String> = BTreeMap::new();

    fn request<'a>(cgroups_path: &'a str, rootless: bool) -> Request<'a> {
        Request { cgroups_path, id: "web", systemd: true, rootless, resources: None, devices: &[], annotations: &NONE }
    }

    #[test]
    fn paths_name_slices_and_scopes() {
        let names = |path| names(&request(path, false)).map(|(slice, unit)| format!("{slice} {unit}"));
        assert_eq!(names("").unwrap(), "system.slice corten-web.scope");
        assert_eq!(names("machine.slice:libpod:1").unwrap(), "machine.slice libpod-1.scope");
        assert_eq!(names("::1").unwrap(), "system.slice 1.scope");
        assert_eq!(super::names(&request("", true)).unwrap().0, "user.slice");
        for bad in ["/a/b", "a:b", "a:b:c:d", "a:b:", "a:b:c.slice", "a:b:../c", "a:b:c d"] {
            assert!(names(bad).unwrap_err().message().contains("linux.cgroupsPath"), "{bad}");
        }
    }

    #[test]
    fn dashes_in_a_slice_are_its_place() {
        assert_eq!(expand("system.slice").unwrap(), "system.slice");
        assert_eq!(expand("a-b-c.slice").unwrap(), "a.slice/a-b.slice/a-b-c.slice");
        assert_eq!(expand("-.slice").unwrap(), "");
        for bad in ["", "a", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice", ".slice", "../x.slice"] {
            assert!(expand(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_bus_knows_the_user_outside() {
        assert_eq!(outer_uid(0, "         0       1000          1\n         1     100000      65536\n"), 1000);
        assert_eq!(outer_uid(5, "0 1000 1\n1 100000 65536\n"), 100_004);
        assert_eq!(outer_uid(7, "0 0 4294967295\n"), 7);
        assert_eq!(["v252", "252.38-1~deb12u1", "\"245\"", "x"].map(parse_version), [252, 252, 245, 0]);
    }

    #[test]
    fn without_systemd_the_error_says_what_to_do() {
        if Path::new(BOOTED).exists() {
            return;
        }
        let error = Scope::plan(&request("", false)).unwrap_err();
        assert!(error.report().contains("hint: leave `--systemd-cgroup` out"), "{}", error.report());
    }

    /// Ends with the test.
    struct Daemon(Child);

    impl Drop for Daemon {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    /// A systemd of our own on a private message bus: notes the calls it gets, and moves processes into `cgroups`.
    fn imitate(mut bus: Bus, cgroups: &[PathBuf]) -> Vec<String> {
        let (mut seen, mut refused) = (Vec::new(), false);
        while let Some(call) = bus.next_call() {
            let mut body = call.reader();
            match call.member.as_str() {
                "Get" => bus.reply_variant(&call, "252.1"),
                "StartTransientUnit" if !refused => {
                    refused = true;
                    bus.refuse(&call, "org.freedesktop.systemd1.UnitExists");
                }
                "StartTransientUnit" | "StopUnit" => {
                    let (unit, mode) = (body.text().unwrap(), body.text().unwrap());
                    seen.push(format!("{} {unit} {mode}", call.member));
                    if call.member == "StartTransientUnit" {
                        let properties = body.properties();
                        let pid =
                            properties.iter().find(|(name, _)| name == "PIDs").unwrap().1.trim_matches(['[', ']']);
                        for cgroup in cgroups {
                            std::fs::create_dir(cgroup.parent().unwrap()).unwrap();
                            std::fs::create_dir(cgroup).unwrap();
                            std::fs::write(cgroup.join("cgroup.procs"), pid).unwrap();
                        }
                        seen.extend(properties.into_iter().map(|(name, value)| format!("{name}={value}")));
                    }
                    // Another's job ends first; ours even before the reply.
                    for job in ["/job/6", "/job/7"] {
                        let arguments =
                            [Argument::Number(7), Argument::Text(job), Argument::Text(&unit), Argument::Text("done")];
                        bus.emit(MANAGER.path, MANAGER.interface, "JobRemoved", &arguments);
                    }
                    bus.reply(&call, &[Argument::Text("/job/7")]);
                }
                "SetUnitProperties" => {
                    let (unit, runtime) = (body.text().unwrap(), body.u32().unwrap());
                    seen.push(format!("{} {unit} {runtime} {:?}", call.member, body.properties()));
                    bus.reply(&call, &[]);
                }
                "ResetFailedUnit" => {
                    seen.push(format!("{} {}", call.member, body.text().unwrap()));
                    bus.reply(&call, &[]);
                }
                "Exit" => {
                    bus.reply(&call, &[]);
                    break;
                }
                other => panic!("unexpected call {other}"),
            }
        }
        seen
    }

    /// A message bus with that systemd; nothing where the bus is not installed (Debian's package `dbus`).
    fn with_systemd(cgroups: Vec<PathBuf>, body: impl FnOnce(Scope)) -> Option<String> {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("bus").to_str().unwrap().to_owned();
        let daemon = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--print-address", "--address", &format!("unix:path={socket}")])
            .stdout(Stdio::piped())
            .spawn();
        let mut daemon = Daemon(daemon.ok()?);
        let mut address = String::new();
        BufReader::new(daemon.0.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let uid = geteuid().as_raw();
        let mut service = Bus::connect(&socket, uid).unwrap();
        service.serve(MANAGER.peer);
        let server = std::thread::spawn(move || imitate(service, &cgroups));
        let scope = Scope { unit: "corten-web.scope".into(), slice: "a-b.slice".into(), socket, uid, started: false };
        body(scope.clone());
        scope.connect().unwrap().bus.call(MANAGER, "Exit", &[]).unwrap();
        Some(server.join().unwrap().join("\n"))
    }

    #[test]
    fn a_scope_is_started_changed_and_stopped_over_the_bus() {
        let all = with_systemd(Vec::new(), |mut scope| {
            let document = br#"{"memory":{"limit":8192},"cpu":{"cpus":"0-1"},"unified":{"memory.oom.group":"1"}}"#;
            let resources = Resources::parse(document).unwrap();
            let policy = Policy::new(&[], &[]).unwrap();
            let annotations = [("org.systemd.property.CollectMode".to_owned(), "'inactive-or-failed'".to_owned())];
            let annotations = BTreeMap::from(annotations);
            let request = Request { resources: Some(&resources), annotations: &annotations, ..request("", false) };
            scope.start(Pid::from_raw(4711).unwrap(), &request, &policy, true).unwrap();
            assert!(scope.started);
            let pids = Resources::parse(br#"{"pids":{"limit":9}}"#).unwrap();
            scope.update(&pids, None, true).unwrap();
            scope.stop().unwrap();
        });
        let Some(all) = all else { return };
        for line in [
            "ResetFailedUnit corten-web.scope\nStartTransientUnit corten-web.scope replace\n",
            "Slice=a-b.slice\nDelegate=true\nPIDs=[4711]\n",
            "DefaultDependencies=false\nMemoryMax=8192\nAllowedCPUs=[3]\n",
            "DevicePolicy=strict\nDeviceAllow=char-* m, block-* m, /dev/char/1:3 rwm, ",
            "\nCollectMode=inactive-or-failed\n",
            "SetUnitProperties corten-web.scope 1 [(\"TasksMax\", \"9\")]\nStopUnit corten-web.scope replace\n",
        ] {
            assert!(all.contains(line), "{line:?} is not in:\n{all}");
        }
    }

    #[test]
    fn a_process_in_a_scope_is_limited_in_every_hierarchy() {
        let path = format!("/corten-scope-{}/corten-web.scope", std::process::id());
        let limits = |bytes: u64| Resources::parse(format!(r#"{{"memory":{{"limit":{bytes}}}}}"#).as_bytes()).unwrap();
        let (first, second) = (limits(67_108_864), limits(33_554_432));
        let request = Request { resources: Some(&first), systemd: false, ..request(&path, false) };
        let mut cgroup = Cgroup::plan(&request).unwrap();
        // On a hybrid host systemd makes some hierarchies, and the runtime the others.
        let paths = cgroup.paths();
        let made = paths.iter().filter(|(name, _)| ["", "memory", "name=systemd"].contains(&name.as_str()));
        let all = with_systemd(made.map(|(_, path)| path.into()).collect(), |scope| {
            let mut process = Daemon(Command::new("sleep").arg("1000").spawn().unwrap());
            let pid = Pid::from_child(&process.0);
            cgroup.scope = Some(scope);
            cgroup.create(&request).unwrap();
            assert!(cgroup.needs_pid() && cgroup.entry().unwrap().clone_into().is_none());
            cgroup.start_scope(pid, &request).unwrap();
            assert!(!cgroup.needs_pid());
            let inside = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).unwrap();
            let count = inside.lines().filter(|line| line.ends_with(&path)).count();
            assert_eq!(count, cgroup.hierarchies.len(), "{inside}");
            let limit = || {
                let directory = cgroup.require("memory").unwrap().directory().unwrap();
                let text = directory.read("memory.max").or_else(|_| directory.read("memory.limit_in_bytes"));
                text.unwrap().trim().parse::<u64>().unwrap()
            };
            assert_eq!(limit(), 67_108_864);
            cgroup.update(&second).unwrap();
            assert_eq!(limit(), 33_554_432);
            cgroup.signal_all(9).unwrap();
            process.0.wait().unwrap();
            cgroup.destroy().unwrap();
            assert!(!paths.values().any(|path| Path::new(path).exists()));
        });
        assert!(all.is_none_or(|all| all.contains("SetUnitProperties") && all.contains("StopUnit")));
        // The slice is systemd's, here: ours.
        for path in cgroup.paths().values() {
            match std::fs::remove_dir(Path::new(path).parent().unwrap()) {
                Ok(()) | Err(_) => {}
            }
        }
    }
}
