"""Kubernetes for tests: pods of a selector, what NetworkPolicies let through, what the profile "restricted" asks."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Pod:
    """A pod as network rules see it; `spec` is empty for one that somebody else's manifests make."""

    name: str
    labels: dict
    namespace: str = "motion-enhancer"
    spec: dict = field(default_factory=dict)


def pods(objects):
    """Every pod that a build's objects make. A kind that makes pods and is not named here stops the test."""
    for item in objects:
        if item["kind"] in ("Job", "StatefulSet"):
            template = item["spec"]["template"]
            names = item["metadata"]
            yield Pod(names["name"], template["metadata"]["labels"], names["namespace"], template["spec"])
        else:
            assert "containers" not in str(item), f"{item['kind']} is not known here to make pods"


def selects(selector, labels):
    """Whether a label selector takes these labels; an empty one takes all."""
    tests = {
        "In": lambda key, values: labels.get(key) in values,
        "NotIn": lambda key, values: labels.get(key) not in values,
        "Exists": lambda key, values: key in labels,
        "DoesNotExist": lambda key, values: key not in labels,
    }
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        tests[item["operator"]](item["key"], item.get("values", [])) for item in selector.get("matchExpressions", [])
    )


def policies_for(pod, objects, direction):
    """The NetworkPolicies that isolate this pod in this direction."""
    return [
        item["spec"]
        for item in objects
        if item["kind"] == "NetworkPolicy"
        and item["metadata"]["namespace"] == pod.namespace
        and direction in item["spec"]["policyTypes"]
        and selects(item["spec"]["podSelector"], pod.labels)
    ]


def rules(pod, objects, direction):
    """Pairs of peers and ports; None stands for any."""
    key, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    return [
        (rule.get(peers), rule.get("ports"))
        for spec in policies_for(pod, objects, direction)
        for rule in spec.get(key) or []
    ]


def _port(ports, port, protocol):
    wanted = (port, protocol)
    return not ports or any((item.get("port", port), item.get("protocol", "TCP")) == wanted for item in ports)


def _peer(peer, pod, other):
    if "ipBlock" in peer:
        return False
    space = {"kubernetes.io/metadata.name": other.namespace}
    own = other.namespace == pod.namespace
    near = selects(peer["namespaceSelector"], space) if "namespaceSelector" in peer else own
    return near and selects(peer.get("podSelector", {}), other.labels)


def lets(pod, other, objects, direction, port, protocol="TCP"):
    """Whether policies let `pod` send to `other` (Egress) or receive from it (Ingress) at a port. Without any: yes."""
    return not policies_for(pod, objects, direction) or any(
        _port(ports, port, protocol) and (not peers or any(_peer(peer, pod, other) for peer in peers))
        for peers, ports in rules(pod, objects, direction)
    )


def connects(source, target, objects, port, protocol="TCP"):
    """Whether both sides agree."""
    sent = lets(source, target, objects, "Egress", port, protocol)
    return sent and lets(target, source, objects, "Ingress", port, protocol)


def reaches(pod, objects, address, port):
    """Whether `pod` may open a TCP connection to an address outside of the cluster."""
    ip = ipaddress.ip_address(address)

    def held(cidr):
        return ip in ipaddress.ip_network(cidr)

    blocks = [
        (peers is None) or [peer["ipBlock"] for peer in peers if "ipBlock" in peer]
        for peers, ports in rules(pod, objects, "Egress")
        if _port(ports, port, "TCP")
    ]
    return not policies_for(pod, objects, "Egress") or any(
        block is True or any(held(one["cidr"]) and not any(map(held, one.get("except", []))) for one in block)
        for block in blocks
    )


def outside(pod, objects):
    """The address ranges that `pod` may send to; all of the world where a rule names no peer."""
    found = rules(pod, objects, "Egress")
    named = {peer["ipBlock"]["cidr"] for peers, _ in found for peer in peers or [] if "ipBlock" in peer}
    open_ = not policies_for(pod, objects, "Egress") or any(not peers for peers, _ in found)
    return named | ({"0.0.0.0/0"} if open_ else set())


# Pod Security Standards, profile "restricted" (with "baseline", which it contains) ------------------------------------

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SELINUX = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
PROFILES = {"RuntimeDefault", "Localhost"}


def restricted(spec):
    """What the profile finds wrong with a pod spec; an empty list when it complies."""
    pod = spec.get("securityContext", {})
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    found += [f"volume {item['name']}" for item in spec.get("volumes", []) if not set(item) - {"name"} <= VOLUMES]
    found += [f"sysctl {item['name']}" for item in pod.get("sysctls", [])]  # stricter than the profile, which has ten
    found += _shared(pod)
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(kind, []):
            found += [f"{container['name']}: {what}" for what in _container(container, pod)]
    return found


def _shared(context):
    """Fields that pods and containers both have."""
    linux = context.get("seLinuxOptions", {})
    wrong = {
        "SELinux": linux.get("type") not in SELINUX or linux.get("user") or linux.get("role"),
        "AppArmor": context.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in PROFILES,
        "seccomp": context.get("seccompProfile", {}).get("type", "RuntimeDefault") not in PROFILES,
        "HostProcess": context.get("windowsOptions", {}).get("hostProcess"),
        "root": context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False,
    }
    return [what for what, bad in wrong.items() if bad]


def _container(container, pod):
    own = container.get("securityContext", {})
    capabilities = own.get("capabilities", {})
    handlers = [container.get(probe, {}) for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
    handlers += list(container.get("lifecycle", {}).values())
    wrong = {
        "privileged": own.get("privileged"),
        "privilege escalation": own.get("allowPrivilegeEscalation") is not False,
        "capabilities not dropped": "ALL" not in capabilities.get("drop", []),
        "capabilities added": set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"},
        "procMount": own.get("procMount", "Default") != "Default",
        "host port": any(port.get("hostPort") for port in container.get("ports", [])),
        "probe host": any(one.get(how, {}).get("host") for one in handlers for how in ("httpGet", "tcpSocket")),
        "may be root": not own.get("runAsNonRoot", pod.get("runAsNonRoot")),
        "no seccomp profile": not ({**pod, **own}).get("seccompProfile"),
    }
    return _shared(own) + [what for what, bad in wrong.items() if bad]
