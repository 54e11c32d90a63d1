"""A Ray cluster of two nodes on this machine, one CPU each, until stdin ends: `python -P two_nodes.py`.

Prints its address. A process of its own, since Ray is in one cluster at a time.
"""

import sys

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    node = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()
