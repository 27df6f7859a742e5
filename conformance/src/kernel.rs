//! What the kernel has of an attachment, held against the result that the plugin gave.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{Context, Result, node::Space, protocol::contains, shape::elements};

const PATIENCE: Duration = Duration::from_secs(5);

/// Checks that the interface is there and up, and that MAC, MTU, addresses and routes are as the
/// result says.
///
/// # Errors
/// The first difference.
pub fn attached(pod: &Space, ifname: &str, result: &Value, at: usize) -> Result<()> {
    let interface = &result["interfaces"][at];
    let links = pod.ip("addr show")?;
    let link = links.iter().find(|link| link["ifname"] == ifname);
    let link = link.ok_or_else(|| format!("the pod has no interface {ifname}"))?;
    if !contains(&link["flags"], &serde_json::json!(["UP"])) {
        return Err(format!("{ifname} is not up: {}", link["flags"]));
    }
    for (key, shown) in [("mac", "address"), ("mtu", "mtu")] {
        let said = &interface[key];
        if !said.is_null() && *said != link[shown] {
            return Err(format!("{ifname} has {key} {}, the result says {said}", link[shown]));
        }
    }
    for address in addresses(result, at) {
        let held = elements(&link["addr_info"]).any(|held| {
            let local = held["local"].as_str().unwrap_or_default();
            format!("{local}/{}", held["prefixlen"]) == address
        });
        if !held {
            return Err(format!("{ifname} does not have {address}, which the result says"));
        }
        let tentative = elements(&link["addr_info"]).find(|held| {
            held["tentative"] == true && address.starts_with(held["local"].as_str().unwrap_or(" "))
        });
        if tentative.is_some() {
            return Err(format!("{address} can't be used yet: the kernel still probes for it"));
        }
    }
    routes(pod, ifname, result)
}

fn routes(pod: &Space, ifname: &str, result: &Value) -> Result<()> {
    let mut there = pod.ip("-4 route show table all")?;
    there.extend(pod.ip("-6 route show table all")?);
    for route in elements(&result["routes"]) {
        let dst = route["dst"].as_str().unwrap_or_default();
        let six = dst.contains(':');
        let found = there.iter().any(|found| {
            let via = found["gateway"].as_str().or_else(|| found["via"]["host"].as_str());
            let shown = match found["dst"].as_str().unwrap_or_default() {
                "default" if via.map_or(six, |via| via.contains(':')) => "::/0".to_owned(),
                "default" => "0.0.0.0/0".to_owned(),
                host if !host.contains('/') => {
                    format!("{host}/{}", if host.contains(':') { 128 } else { 32 })
                }
                net => net.to_owned(),
            };
            shown == dst && found["dev"] == ifname
        });
        if !found {
            return Err(format!("the pod has no route to {dst} through {ifname}"));
        }
    }
    Ok(())
}

/// Checks that the pod has no such interface.
///
/// # Errors
/// It has.
pub fn detached(pod: &Space, ifname: &str) -> Result<()> {
    let there = pod.ip("link show")?.iter().any(|link| link["ifname"] == ifname);
    if there { Err(format!("the pod still has {ifname}")) } else { Ok(()) }
}

/// The addresses, with prefix lengths, that a result gives to an interface.
pub fn addresses(result: &Value, at: usize) -> Vec<String> {
    elements(&result["ips"])
        .filter(|ip| ip["interface"].is_null() || ip["interface"] == at)
        .filter_map(|ip| Some(ip["address"].as_str()?.to_owned()))
        .collect()
}

/// The same without the prefix lengths.
///
/// # Errors
/// One is no address.
pub fn ips(result: &Value, at: usize) -> Result<Vec<IpAddr>> {
    let ip =
        |cidr: &String| cidr.split('/').next().unwrap_or_default().parse().context(|| cidr.clone());
    addresses(result, at).iter().map(ip).collect()
}

/// Makes a TCP connection from one space to another at an address, and has a few bytes go each way.
/// It is tried for some seconds: a bridge, say, begins with probing for its own address.
///
/// # Errors
/// It did not come about.
pub fn talk(client: &Space, server: &Space, address: IpAddr) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match talk_once(client, server, SocketAddr::new(address, 0), None) {
            Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(100)),
            done => return done,
        }
    }
}

/// The same through an address and port that lead to another: `target` is asked, `listen` answers.
///
/// # Errors
/// It did not come about.
pub fn talk_through(
    client: &Space,
    server: &Space,
    target: SocketAddr,
    listen: SocketAddr,
) -> Result<()> {
    talk_once(client, server, listen, Some(target))
}

/// Checks that nobody takes a connection there.
///
/// # Errors
/// Somebody does.
pub fn silent(client: &Space, target: SocketAddr) -> Result<()> {
    client.run(|| match TcpStream::connect_timeout(&target, Duration::from_secs(1)) {
        Ok(_) => Err(format!("{target} is still answered")),
        Err(_) => Ok(()),
    })
}

fn talk_once(
    client: &Space,
    server: &Space,
    listen: SocketAddr,
    target: Option<SocketAddr>,
) -> Result<()> {
    let listener = server.run(|| TcpListener::bind(listen).context(|| format!("bind {listen}")))?;
    let bound = listener.local_addr().context(|| format!("bind {listen}"))?;
    let target = target.unwrap_or(bound);
    let what = || format!("no TCP to {target}");
    let served = thread::spawn(move || {
        // A client that never comes must not hold the run up.
        listener.set_nonblocking(true).ok()?;
        for _ in 0..PATIENCE.as_millis() / 2 {
            if let Ok((mut stream, _)) = listener.accept() {
                stream.set_nonblocking(false).ok()?;
                stream.set_read_timeout(Some(PATIENCE)).ok()?;
                let mut asked = [0; 5];
                stream.read_exact(&mut asked).ok()?;
                return stream.write_all(&asked).ok();
            }
            thread::sleep(Duration::from_millis(2));
        }
        None
    });
    let heard = client.run(|| {
        let mut stream = TcpStream::connect_timeout(&target, PATIENCE).context(what)?;
        stream.set_read_timeout(Some(PATIENCE)).context(what)?;
        stream.write_all(b"hello").context(what)?;
        let mut echo = String::new();
        stream.read_to_string(&mut echo).context(what)?;
        if echo == "hello" { Ok(()) } else { Err(format!("{}: heard {echo:?}", what())) }
    });
    let _ = served.join();
    heard
}
