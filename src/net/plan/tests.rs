use super::*;
use crate::spec::capability::Protocol;

fn v4() -> Address {
    let address = "10.88.0.5/24".parse().unwrap();
    Address { address, gateway: "10.88.0.1".parse().ok() }
}

fn v6() -> Address {
    Address { address: "fd00:88::5/64".parse().unwrap(), gateway: None }
}

/// A request of dual-stack size, changed by `change`.
fn plan(
    addresses: &[Address],
    routes: &[Route],
    change: impl FnOnce(&mut Request<'_>),
) -> Result<Plan> {
    let attachment = Attachment::new("c1", "eth0").unwrap();
    let mut request = Request {
        network: "podnet",
        attachment: &attachment,
        mtu: 1500,
        mac: None,
        addresses,
        routes,
        ports: &[],
        bandwidth: Bandwidth::default(),
    };
    change(&mut request);
    Plan::new(&request)
}

fn default_routes() -> Vec<Route> {
    ["0.0.0.0/0", "::/0"].map(|dst| Route::to(dst.parse().unwrap())).into()
}

/// Every route as `dst via gw`.
fn shown(routes: &[Route]) -> Vec<String> {
    let via = |gw: Option<IpAddr>| gw.map_or("link".into(), |gw| gw.to_string());
    routes.iter().map(|route| format!("{} via {}", route.dst, via(route.gw))).collect()
}

#[test]
fn dual_stack_plan_in_full() {
    let plan = plan(&[v4(), v6()], &default_routes(), |_| {}).unwrap();
    let (host_mac, pod_mac) = ("06:63:ef:3e:71:70", "ba:21:a1:8d:d8:ab");
    let want = serde_json::json!({
        "host_ifname": "weir96f196d4e8b",
        "alias": "weir:podnet/c1/eth0",
        "pod_ifname": "eth0",
        "host_mac": host_mac,
        "pod_mac": pod_mac,
        "mtu": 1500,
        "addresses": ["10.88.0.5", "fd00:88::5"],
        "host_link_local": "fe80::463:efff:fe3e:7170",
        "pod_link_local": "fe80::b821:a1ff:fe8d:d8ab",
        "pod_neighbours": [
            {"ip": "169.254.1.1", "mac": host_mac},
            {"ip": "fe80::1", "mac": host_mac},
        ],
        "answers": false,
        "host_neighbours": [
            {"ip": "10.88.0.5", "mac": pod_mac},
            {"ip": "fd00:88::5", "mac": pod_mac},
        ],
        "pod_routes": [
            {"dst": "169.254.1.1/32"},
            {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
            {"dst": "::/0", "gw": "fe80::1"},
        ],
        "host_routes": ["10.88.0.5/32", "fd00:88::5/128"],
        "loopback_v6": false,
        "bandwidth": {"ingress": null, "egress": null},
        "sysctls": [
            {"key": "ipv4/ip_forward", "value": "1", "shared": true},
            {"key": "ipv6/conf/all/forwarding", "value": "1", "shared": true},
            {"key": "ipv6/conf/weir96f196d4e8b/accept_ra", "value": "0", "shared": false},
        ],
    });
    assert_eq!(serde_json::to_value(&plan).unwrap(), want);
}

#[test]
fn ipv4_alone_has_no_ipv6_on_its_link() {
    let plan = plan(&[v4()], &[], |_| {}).unwrap();
    assert_eq!((plan.pod_link_local, plan.host_link_local), (None, None));
    assert_eq!(
        shown(&plan.pod_routes),
        ["169.254.1.1/32 via link", "10.88.0.0/24 via 169.254.1.1"]
    );
    let keys: Vec<_> = plan.sysctls.iter().map(|sysctl| sysctl.key.as_str()).collect();
    assert_eq!(
        keys,
        ["ipv4/ip_forward", &format!("ipv6/conf/{}/disable_ipv6", plan.mark.host_ifname)]
    );
}

#[test]
fn the_node_answers_for_the_gateway_of_a_pod_whose_mac_was_asked_for() {
    let asked = plan(&[v4(), v6()], &[], |request| request.mac = "02:00:00:00:00:05".parse().ok());
    let asked = asked.unwrap();
    let keys: Vec<_> = asked.sysctls.iter().map(|sysctl| sysctl.key.as_str()).collect();
    let host = &asked.mark.host_ifname;
    assert!(asked.answers);
    for key in [
        format!("ipv4/neigh/{host}/proxy_delay"),
        format!("ipv6/neigh/{host}/proxy_delay"),
        format!("ipv6/conf/{host}/proxy_ndp"),
    ] {
        assert!(keys.contains(&key.as_str()), "{keys:?}");
    }
    assert!(!plan(&[v4()], &[], |_| {}).unwrap().answers);
}

#[test]
fn only_a_port_that_the_loopback_leads_to_opens_it() {
    let opened = |host_ip: Option<&str>| {
        let port = PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        };
        let ports = [port];
        let attachment = Attachment::new("c1", "eth0").unwrap();
        let request = Request {
            network: "podnet",
            attachment: &attachment,
            mtu: 1500,
            mac: None,
            addresses: &[v4(), v6()],
            routes: &[],
            ports: &ports,
            bandwidth: Bandwidth::default(),
        };
        let plan = Plan::new(&request).unwrap();
        let localnet = plan.sysctls.iter().any(|sysctl| sysctl.key.ends_with("route_localnet"));
        (localnet, plan.loopback_v6)
    };
    assert_eq!(opened(None), (true, true));
    assert_eq!(opened(Some("0.0.0.0")), (true, false));
    assert_eq!(opened(Some("127.0.0.1")), (true, false));
    assert_eq!(opened(Some("::")), (false, true));
    assert_eq!(opened(Some("::1")), (false, true));
    assert_eq!(opened(Some("192.0.2.1")), (false, false));
    assert_eq!(opened(Some("2001:db8::1")), (false, false));
}

#[test]
fn a_subnet_route_gives_way_to_a_default_route() {
    let plan = plan(&[v4(), v6()], &default_routes()[1..], |_| {}).unwrap();
    assert_eq!(
        shown(&plan.pod_routes),
        ["169.254.1.1/32 via link", "10.88.0.0/24 via 169.254.1.1", "::/0 via fe80::1"]
    );
}

#[test]
fn the_subnets_gateway_means_ours() {
    let route = Route { gw: Some("10.88.0.1".parse().unwrap()), ..default_routes().remove(0) };
    let plan = plan(&[v4()], &[route], |_| {}).unwrap();
    assert_eq!(plan.pod_routes[1].gw, Some(GATEWAY_V4.into()));
}

#[test]
fn what_no_routed_pod_can_have_is_refused() {
    let said = |plan: Result<Plan>| {
        let err = plan.unwrap_err();
        assert_eq!(err.kind(), Kind::Config);
        err.msg().to_owned()
    };
    let default = || default_routes().remove(0);
    let elsewhere = Route { gw: "10.88.0.9".parse().ok(), ..default() };
    assert!(said(plan(&[v4()], &[elsewhere], |_| {})).contains("through 10.88.0.9"));
    let local = Route { scope: Some(253), ..default() };
    assert!(said(plan(&[v4()], &[local], |_| {})).contains("of scope 253"));
    assert!(said(plan(&[v4()], &default_routes(), |_| {})).contains("route to ::/0"));
    assert!(said(plan(&[v6()], &[], |request| request.mtu = 1279)).contains("mtu is 1279"));
    let group = Mac([1, 0, 0, 0, 0, 1]);
    let plan = plan(&[v4()], &[], |request| request.mac = Some(group));
    assert!(said(plan).contains("mac 01:00:00:00:00:01"));
}
