//! A systemd unit below `examples/`, and whether it leaves a program what that calls.

use std::{collections::BTreeSet, fs, process::Command};

/// By its path.
pub struct Unit(pub &'static str);

impl Unit {
    /// The values of a key.
    pub fn values(&self, key: &str) -> Vec<String> {
        let unit = fs::read_to_string(self.0).unwrap();
        let value = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.unwrap().split(' ').map(str::to_owned).collect()
    }

    /// Its capabilities but this one, as setpriv has them.
    pub fn capabilities(&self, without: &str) -> String {
        let kept = self.values("CapabilityBoundingSet").into_iter().filter(|name| name != without);
        let kept =
            kept.map(|name| format!(",+{}", name.strip_prefix("CAP_").unwrap().to_lowercase()));
        format!("-all{}", kept.collect::<String>())
    }

    /// That its restrictions leave what strace has seen: system calls, address families, namespaces and
    /// memory.
    pub fn assert_allows(&self, trace: &str) {
        let (allowed, unit) = (self.allowed(), self.0);
        let families = self.values("RestrictAddressFamilies");
        let mut calls = BTreeSet::new();
        for line in trace.lines() {
            // Number of the process, name of the call, or words about its end.
            let call = line.split_once(' ').unwrap().1.trim_start();
            let name = call.split('(').next().unwrap();
            let named = call.contains('(')
                && name.bytes().all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b));
            if !named {
                continue;
            }
            calls.insert(name);
            assert!(allowed.contains(name), "SystemCallFilter of {unit} lacks {name}");
            assert!(!["setns", "unshare"].contains(&name), "RestrictNamespaces of {unit}: {call}");
            let net = call.strip_prefix("socket(").and_then(|rest| rest.split(',').next());
            assert!(net.is_none_or(|family| families.iter().any(|kept| kept == family)), "{call}");
            let executable = call.contains("PROT_EXEC") && call.contains("PROT_WRITE");
            assert!(!executable, "MemoryDenyWriteExecute of {unit}: {call}");
        }
        assert!(calls.contains("bpf") && calls.len() > 10, "{calls:?}");
    }

    /// The system calls that it allows, its sets taken apart.
    fn allowed(&self) -> BTreeSet<String> {
        let output = Command::new("systemd-analyze").arg("syscall-filter").output();
        let text = output.expect("systemd-analyze is missing: install systemd").stdout;
        let text = String::from_utf8(text).unwrap();
        let (mut allowed, mut open) = (BTreeSet::new(), self.values("SystemCallFilter"));
        while let Some(name) = open.pop() {
            if !name.starts_with('@') {
                allowed.insert(name);
                continue;
            }
            let set = text.lines().skip_while(|line| *line != name).skip(1);
            let members = set.take_while(|line| line.starts_with(' ')).map(str::trim);
            open.extend(members.filter(|member| !member.starts_with('#')).map(str::to_owned));
        }
        assert!(allowed.len() > 100 && allowed.contains("bpf"), "{allowed:?}");
        allowed
    }
}
