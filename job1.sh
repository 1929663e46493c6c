#!/bin/bash
cd /tmp/w/mri_code; export PATH=/work/main/.venv/bin:$PATH PYTHONPATH=/tmp/w/mri_code AMBIENT_NB_RUNS=/tmp/w/runs_mri OMP_NUM_THREADS=1 AMBIENT_NB_PROGRESS=0; unset MPLBACKEND AMBIENT_NB_PROFILE
python train_mri.py 1 /tmp/w/runs_mri > /tmp/w/mri/job1.log 2>&1; echo rc $? >> /tmp/w/mri/job1.log
