"""A Ray cluster of two nodes on this machine: ``python ray_nodes.py`` prints its address and ends with its stdin."""

import sys

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 16, "num_gpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=16, num_gpus=1)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()
