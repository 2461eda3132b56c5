#!/usr/bin/env python3
"""Makes vectors.txt: addresses before and after prefix translation (RFC 6296).

Run as `python3 vectors.py > vectors.txt`. An address is a number here, and what is adjusted is
reckoned modulo 65535, as one's complement sums are: nothing is taken from the code that is tested.
"""

import random
from ipaddress import IPv6Address, IPv6Network

# Of RFC 6296 §3.6 and §3.7, and what the Linux kernel's SNPT made on the wire.
KNOWN = [
    ("fd01:203:405:1::1234", "fd01:203:405::/48", "2001:db8:1::/48"),
    ("fd01:203:405:ffff::1234", "fd01:203:405::/48", "2001:db8:1::/48"),
    ("fd01:203:405:0::1", "fd01:203:405::/48", "2001:db8:1::/48"),
    ("fd01:203:405:2ab0::1", "fd01:203:405::/48", "2001:db8:1::/48"),
    ("fd00:1:2:3:ffff:1234:5678:9abc", "fd00:1:2:3::/64", "2001:db8:1:2::/64"),
    ("fd00:1:2:3:ffff:ffff:9abc:def0", "fd00:1:2:3::/64", "2001:db8:1:2::/64"),
    ("fd00:1:2:3:ffff:ffff:ffff:ffff", "fd00:1:2:3::/64", "2001:db8:1:2::/64"),
    ("fd00:1:2:3::", "fd00:1:2:3::/64", "2001:db8:1:2::/64"),
    ("fd00:1:2:3::1", "fd00:1:2:3::/64", "2001:db8:1:2::/64"),
    ("fd00:0:0:5::99", "fd00::/48", "2001:4650:c3ed::/48"),
    ("fc00:1:0:7::99", "fc00:1::/48", "2001:db8:1::/48"),
    ("fc00:1234:9:7::99", "fc00:1234::/32", "2001:db8::/32"),
    ("fc00:1234:0:1::99", "fc00:1234::/63", "2001:db8:1::/56"),
    ("fd01:203:405:1::2", "fd01:203:405:1::/64", "2001:db8:2::/64"),
    ("fd01:203:405:a5::77", "fd01:203:405::/56", "2001:db8:77:ab00::/56"),
    ("fd01:203:405:1a5::77", "fd01:203:405::/48", "2001:db8:77:ab00::/56"),
]


def outward(address, inside, outside):
    length = max(inside.prefixlen, outside.prefixlen)
    shift = 128 - length
    number = int(address)
    if number >> shift != int(inside.network_address) >> shift:
        return "prefix"
    subnet = number >> 64 & 0xFFFF
    identifier = number & (1 << 64) - 1
    if length <= 48:
        if subnet == 0xFFFF:
            return "subnet"
        at = 64
    else:
        free = [at for at in (48, 32, 16, 0) if number >> at & 0xFFFF != 0xFFFF]
        if identifier == 0 or not free:
            return "identifier"
        at = free[0]
    adjustment = int(inside.network_address) - int(outside.network_address)
    number = int(outside.network_address) | number & (1 << shift) - 1
    word = number >> at & 0xFFFF
    number += ((word + adjustment) % 65535 - word) << at
    return IPv6Address(number)


def prefix(draw, first, length):
    number = (first << 112 | draw.getrandbits(112)) >> (128 - length) << (128 - length)
    return IPv6Network((number, length))


def address(draw, inside, length):
    """Most words at random, some all zeros or all ones."""
    host = 0
    for _ in range(8):
        host = host << 16 | draw.choice([draw.getrandbits(16)] * 4 + [0, 0xFFFF])
    return IPv6Address(int(inside.network_address) | host & (1 << (128 - length)) - 1)


def main():
    draw = random.Random(6296)
    cases = [(IPv6Address(a), IPv6Network(i), IPv6Network(o)) for a, i, o in KNOWN]
    while len(cases) < 1000:
        lengths = draw.choices([16, 32, 40, 44, 48, 49, 52, 56, 60, 63, 64], k=2)
        inside = prefix(draw, draw.randrange(0xFC00, 0xFE00), lengths[0])
        outside = prefix(draw, draw.randrange(0x2000, 0x4000), lengths[1])
        # Mostly one that both prefixes have room for.
        length = draw.choice([lengths[0], max(lengths), max(lengths)])
        cases.append((address(draw, inside, length), inside, outside))
    print("# address, inside, outside: what leaves. Made by vectors.py.")
    for case in cases:
        print(*case, outward(*case))


main()
