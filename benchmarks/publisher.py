"""A publisher in a process of its own: readings of ten machines at a steady rate, QoS 1, through breaks.

`sources` runs it; it prints how many readings the broker has acknowledged.
"""

import json
import sys
import time

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

MACHINES = 10
SENSORS = 10
TOGETHER = 20
"""Readings in a message."""


def main(port: int, seconds: float, rate: int, username: str, password: str) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, client_id="publisher")
    client.username_pw_set(username, password)
    client.reconnect_delay_set(1, 1)
    acknowledged: list[int] = []
    client.on_publish = lambda _client, _data, mid, _reason, _properties: acknowledged.append(mid)
    client.connect("127.0.0.1", port, clean_start=False)
    client.loop_start()
    started, number = time.monotonic(), 0
    while number < seconds * rate:
        due = min(seconds, time.monotonic() - started) * rate
        while number < due:
            # Without a connection it is queued.
            client.publish(*message(number // TOGETHER), qos=1)
            number += TOGETHER
        time.sleep(0.005)
    while len(acknowledged) < number // TOGETHER:
        time.sleep(0.01)
    client.disconnect()
    client.loop_stop()
    print(number)


def message(number: int) -> tuple[str, str]:
    """Topic and payload; each reading's key, machine and cycle, is there once."""
    machine, first = number % MACHINES, number // MACHINES * TOGETHER
    readings = [
        {"cycle": cycle, **{f"s{sensor}": (cycle * 31 + sensor) % 1000 / 8 for sensor in range(SENSORS)}}
        for cycle in range(first, first + TOGETHER)
    ]
    return f"line/m{machine}/readings", json.dumps({"readings": readings})


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
