//! The rules kube-proxy writes for ClusterIPs, in the shape recorded from kube-proxy 1.36 in its iptables and nftables
//! modes. Comments included: they are part of what the kernel walks past.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// Where pods live, as `--cluster-cidr` says it to kube-proxy.
const CLUSTER_CIDR: &str = "10.244.0.0/16";
const SERVICE_CIDR: &str = "10.96.0.0/12";

/// A TCP Service of one port.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    pub address: Ipv4Addr,
    pub port: u16,
    pub endpoints: Vec<(Ipv4Addr, u16)>,
}

/// Input of `iptables-restore`.
pub fn iptables(services: &[Service]) -> String {
    let mut text = String::from(FILTER);
    text.push_str(
        "*nat\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-SERVICES - [0:0]\n",
    );
    for (index, service) in services.iter().enumerate() {
        writeln!(text, ":{} - [0:0]", svc(index)).unwrap_or_default();
        for endpoint in 0..service.endpoints.len() {
            writeln!(text, ":{} - [0:0]", sep(index, endpoint)).unwrap_or_default();
        }
    }
    text.push_str(NAT);
    for (index, service) in services.iter().enumerate() {
        iptables_service(&mut text, index, service);
    }
    text.push_str("-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n");
    text
}

fn iptables_service(text: &mut String, index: usize, service: &Service) {
    let Service { name, address, port, endpoints } = service;
    let (chain, count) = (svc(index), endpoints.len());
    let cluster_ip =
        format!("-d {address}/32 -p tcp -m comment --comment \"bench/{name}:p cluster IP\" -m tcp --dport {port}");
    writeln!(text, "-A KUBE-SERVICES {cluster_ip} -j {chain}").unwrap_or_default();
    writeln!(text, "-A {chain} ! -s {CLUSTER_CIDR} {cluster_ip} -j KUBE-MARK-MASQ").unwrap_or_default();
    for (number, (to, to_port)) in endpoints.iter().enumerate() {
        let endpoint = sep(index, number);
        let comment = format!("-m comment --comment \"bench/{name}:p -> {to}:{to_port}\"");
        let left = count - number;
        let dice = match left {
            1 => String::new(),
            _ => format!(" -m statistic --mode random --probability {:.11}", 1.0 / left as f64),
        };
        writeln!(text, "-A {chain} {comment}{dice} -j {endpoint}").unwrap_or_default();
        let own = format!("-m comment --comment \"bench/{name}:p\"");
        writeln!(text, "-A {endpoint} -s {to}/32 {own} -j KUBE-MARK-MASQ").unwrap_or_default();
        writeln!(text, "-A {endpoint} -p tcp {own} -m tcp -j DNAT --to-destination {to}:{to_port}").unwrap_or_default();
    }
}

fn svc(index: usize) -> String {
    format!("KUBE-SVC-{index:0>16X}")
}

fn sep(index: usize, endpoint: usize) -> String {
    format!("KUBE-SEP-{index:0>12X}{endpoint:0>4X}")
}

/// Input of `nft -f`. What is pointed at comes before what points.
pub fn nftables(services: &[Service]) -> String {
    let mut chains = String::new();
    let (mut addresses, mut verdicts) = (Vec::new(), Vec::new());
    for (index, service) in services.iter().enumerate() {
        let Service { name, address, port, endpoints } = service;
        let chain = format!("service-{index:0>8X}-bench/{name}/tcp/p");
        let count = endpoints.len();
        let map: Vec<String> =
            endpoints.iter().enumerate().map(|(number, (to, port))| format!("{number} : {to} . {port}")).collect();
        writeln!(
            chains,
            "chain {chain} {{\n meta l4proto tcp dnat ip to numgen random mod {count} map {{ {} }}\n}}",
            map.join(", ")
        )
        .unwrap_or_default();
        addresses.push(address.to_string());
        verdicts.push(format!("{address} . tcp . {port} : goto {chain}"));
    }
    format!(
        "table ip kube-proxy {{\n{chains}\
         set cluster-ips {{\n type ipv4_addr\n elements = {{ {} }}\n}}\n\
         map service-ips {{\n type ipv4_addr . inet_proto . inet_service : verdict\n elements = {{ {} }}\n}}\n{}}}\n",
        addresses.join(", "),
        verdicts.join(", "),
        NFT_BASE.replace("CLUSTER_CIDR", CLUSTER_CIDR).replace("SERVICE_CIDR", SERVICE_CIDR),
    )
}

const FILTER: &str = r#"*mangle
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"#;

const NAT: &str = r#"-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
"#;

const NFT_BASE: &str = r#"set hairpin-connections {
 type ipv4_addr . ipv4_addr . inet_proto . inet_service
}
set nodeport-ips {
 type ipv4_addr
}
map no-endpoint-services {
 type ipv4_addr . inet_proto . inet_service : verdict
}
map no-endpoint-nodeports {
 type inet_proto . inet_service : verdict
}
map firewall-ips {
 type ipv4_addr . inet_proto . inet_service : verdict
}
map service-nodeports {
 type inet_proto . inet_service : verdict
}
chain firewall-check {
 ip daddr . meta l4proto . th dport vmap @firewall-ips
}
chain nodeport-endpoints-check {
 ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
}
chain service-endpoints-check {
 ip daddr . meta l4proto . th dport vmap @no-endpoint-services
}
chain cluster-ips-check {
 ip daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"
 ip daddr SERVICE_CIDR drop comment "Drop traffic to unallocated ClusterIPs"
}
chain services {
 ip daddr @cluster-ips ip saddr != CLUSTER_CIDR meta mark set meta mark | 0x00004000 comment "masquerade clusterIP traffic from outside cluster"
 ip daddr . meta l4proto . th dport vmap @service-ips
 ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
}
chain masquerading {
 meta mark & 0x00004000 != 0x00000000 meta mark set meta mark ^ 0x00004000 masquerade fully-random
 ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
}
chain filter-prerouting-pre-dnat {
 type filter hook prerouting priority dstnat - 10; policy accept;
 ct state new jump firewall-check
}
chain filter-output-pre-dnat {
 type filter hook output priority -110; policy accept;
 ct state new jump firewall-check
}
chain filter-input {
 type filter hook input priority filter; policy accept;
 ct state new jump nodeport-endpoints-check
 ct state new jump service-endpoints-check
}
chain filter-forward {
 type filter hook forward priority filter; policy accept;
 ct state new jump service-endpoints-check
 ct state new jump cluster-ips-check
}
chain filter-output {
 type filter hook output priority filter; policy accept;
 ct state new jump service-endpoints-check
 ct state new jump cluster-ips-check
}
chain nat-prerouting {
 type nat hook prerouting priority dstnat; policy accept;
 jump services
}
chain nat-output {
 type nat hook output priority -100; policy accept;
 jump services
}
chain nat-postrouting {
 type nat hook postrouting priority srcnat; policy accept;
 jump masquerading
}
"#;
