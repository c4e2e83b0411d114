//! The five capability sets of the program (capabilities(7)).

use corten_sys::Call as _;
use corten_types::runtime_spec::Capabilities;
use corten_types::{Result, capability};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// The sets as bits, checked against what this kernel knows.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct CapabilityPlan {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
    last: u32,
}

impl CapabilityPlan {
    /// Reads the names; those that neither this kernel nor Corten knows are left out with a warning, as config.md asks.
    pub(crate) fn build(capabilities: Option<&Capabilities>, warnings: &mut Vec<String>) -> Self {
        let last = last_known();
        let none = Capabilities::default();
        let capabilities = capabilities.unwrap_or(&none);
        let mut unknown = Vec::new();
        let mut bits = |names: &[String]| {
            let mut set = 0;
            for name in names {
                match capability::number(name).filter(|number| *number <= last) {
                    Some(number) => set |= 1 << number,
                    None if !unknown.contains(name) => unknown.push(name.clone()),
                    None => {}
                }
            }
            set
        };
        let plan = Self {
            bounding: bits(&capabilities.bounding),
            effective: bits(&capabilities.effective),
            permitted: bits(&capabilities.permitted),
            inheritable: bits(&capabilities.inheritable),
            ambient: bits(&capabilities.ambient),
            last,
        };
        if !unknown.is_empty() {
            warnings.push(format!("ignoring unknown or unavailable capabilities: {}", unknown.join(", ")));
        }
        plan
    }

    /// Shrinks the bounding set; needs CAP_SETPCAP, so before the user changes.
    pub(crate) fn apply_bounding(&self) -> Result<()> {
        for number in (0..=self.last).filter(|number| self.bounding & (1 << number) == 0) {
            let set = CapabilitySet::from_bits_retain(1 << number);
            match rustix::thread::remove_capability_from_bounding_set(set) {
                // Without CAP_SETPCAP, but it is not there anyway.
                Err(rustix::io::Errno::PERM) if rustix::thread::capability_is_in_bounding_set(set) == Ok(false) => {}
                result => result
                    .call(|| format!("prctl(PR_CAPBSET_DROP, {})", capability::name(number).unwrap_or_default()))?,
            }
        }
        Ok(())
    }

    /// Sets the other four; after the user changed. An ambient one that the kernel does not grant is a warning, as in runc.
    pub(crate) fn apply(&self, warnings: &mut Vec<String>) -> Result<()> {
        let sets = CapabilitySets {
            effective: CapabilitySet::from_bits_retain(self.effective),
            permitted: CapabilitySet::from_bits_retain(self.permitted),
            inheritable: CapabilitySet::from_bits_retain(self.inheritable),
        };
        rustix::thread::set_capabilities(None, sets).call(|| {
            format!(
                "capset(effective {:x}, permitted {:x}, inheritable {:x})",
                self.effective, self.permitted, self.inheritable
            )
        })?;
        rustix::thread::clear_ambient_capability_set().call(|| "prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)")?;
        for number in (0..=self.last).filter(|number| self.ambient & (1 << number) != 0) {
            let set = CapabilitySet::from_bits_retain(1 << number);
            let name = || capability::name(number).unwrap_or_default();
            match rustix::thread::configure_capability_in_ambient_set(set, true) {
                Err(rustix::io::Errno::PERM) => warnings.push(format!(
                    "can't raise ambient capability {}: it must be in `permitted` and `inheritable` as well",
                    name()
                )),
                result => result.call(|| format!("prctl(PR_CAP_AMBIENT_RAISE, {})", name()))?,
            }
        }
        Ok(())
    }
}

/// The highest capability that both this kernel and Corten know.
pub(crate) fn last_known() -> u32 {
    let mut last = u32::try_from(capability::NAMES.len() - 1).unwrap_or(0);
    while last > 0 && rustix::thread::capability_is_in_bounding_set(CapabilitySet::from_bits_retain(1 << last)).is_err()
    {
        last -= 1;
    }
    last
}
