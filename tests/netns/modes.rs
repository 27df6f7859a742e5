//! Who else on the node may read what Weir keeps: nobody; and a link in the place of a directory leads nowhere.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
};

use crate::{counted::Counted, plugin::Call};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn directories_and_records_are_roots_alone() {
    let counted = Counted::new("modes");
    let host = &counted.host;
    let a = host.container("a");
    counted.call("ADD", Some(&a), "tcx").succeed();
    let (state, bpf) = (host.state_dir(), counted.bpffs.join("weir"));
    for directory in [&state, &state.join("attachments"), &state.join("leases"), &bpf] {
        assert_eq!(mode(directory), 0o700, "{}", directory.display());
    }
    assert_eq!(mode(&host.record(&a)), 0o600);
    assert_eq!(mode(&state.join("leases/podnet")), 0o700);
    assert_eq!(mode(&state.join("leases/podnet/lock")), 0o600);
    for pin in counted.pins() {
        assert_eq!(mode(&pin) & 0o077, 0, "{}", pin.display());
    }
}

#[test]
fn a_link_in_the_place_of_a_directory_is_refused_and_nothing_is_made_behind_it() {
    let counted = Counted::new("links");
    let host = &counted.host;
    let a = host.container("a");
    let aside = host.state_dir().with_file_name("aside");
    fs::create_dir(&aside).unwrap();
    let link = host.state_dir().with_file_name("link");
    symlink(&aside, &link).unwrap();
    let behind_bpffs = counted.bpffs.join("other");
    fs::create_dir(&behind_bpffs).unwrap();
    let pins = counted.bpffs.join("linked");
    symlink(&behind_bpffs, &pins).unwrap();
    let add = |key: &str, place: &Path| -> String {
        let call: Call<'_> =
            counted.call("ADD", Some(&a), "clsact").key(key, place.to_str().unwrap().into());
        let code = if key == "bpfDir" { 104 } else { 5 };
        call.refused(code)
    };
    let said = add("bpfDir", &pins);
    assert!(said.contains(pins.to_str().unwrap()), "{said}");
    let said = add("stateDir", &link);
    assert!(said.contains(link.to_str().unwrap()), "{said}");
    for behind in [&aside, &behind_bpffs] {
        assert_eq!(fs::read_dir(behind).unwrap().count(), 0, "{}", behind.display());
    }
    assert!(!a.space.links().contains(&"eth0".to_owned()));
}
