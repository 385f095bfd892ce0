module cai.dev/tests/cluster/pod_program

go 1.21
