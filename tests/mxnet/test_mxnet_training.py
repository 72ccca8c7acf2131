from dataclasses import dataclass
import numpy as np, pytest, torch
from parity import *
from resnet_v2.networks import mxnet as formats

@dataclass(frozen=True)
class Run:
    architecture: Architecture
    steps: int
    images: int
    size: int
    drop: int
    rate: float

RUNS = {
    "cifar-20": Run(Architecture(20, 10, "cifar"), 50, 16, 32, 30, 0.1),
    "resnet-18": Run(Architecture(18, 10, "imagenet"), 10, 8, 64, 6, 0.1),
}
f32=lambda x: float(np.float32(x))

def ours(run, network, images, labels, rates, dtype):
    network=network.to(dtype).train()
    decayed=[]; others=[]
    for m in network.modules():
        for n,p in m.named_parameters(recurse=False):
            (decayed if n=="weight" else others).append(p)
    opt=torch.optim.SGD([{"params":decayed,"weight_decay":f32(1e-4)},{"params":others,"weight_decay":0.}],lr=0.1,momentum=f32(.9),nesterov=True)
    losses=[]
    for x,y,r in zip(images,labels,rates):
        for g in opt.param_groups: g["lr"]=r
        loss=torch.nn.functional.cross_entropy(network(torch.from_numpy(x).to(dtype)),torch.from_numpy(y))
        opt.zero_grad(); loss.backward(); opt.step(); losses.append(loss.item())
    return np.array(losses), formats_state(network)

def formats_state(network):
    s=network.state_dict()
    return {t:s[o].numpy() for t,o in formats.parameter_names(network).items()}

@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("rate", [0.1,0.01])
def test_train(name, rate, mxnet):
    run=RUNS[name]
    images=np.stack([random_images(run.images,run.size,seed) for seed in range(run.steps)])
    labels=np.random.default_rng(1).integers(0,10,(run.steps,run.images))
    rates=[f32(rate if i<run.drop else rate/10) for i in range(run.steps)]
    def net(): return initialize(ResNet(run.architecture,1-f32(.9)),3)
    import time
    arrays={**weights_of(net()),"batches":images,"labels":labels}
    res={}
    for dt in ("float32","float64"):
        t=time.time()
        _,th=mxnet.ask("train",arrays,**settings_of(run.architecture),rates=rates,momentum=.9,weight_decay=1e-4,dtype=dt)
        res["mx",dt]=(th.pop("losses"),th)
        res["us",dt]=ours(run,net(),images,labels,rates,getattr(torch,dt)); print(dt,time.time()-t)
    def cmp(a,b):
        la,wa=res[a];lb,wb=res[b]
        d=np.abs(la-lb)
        ws=max((difference(wa[k],wb[k]),k) for k in wa if k in wb and k!="arg:bn_data_gamma" and "moving_var" not in k)
        print(name,rate,a,b,"loss max",d.max(),"at",d.argmax(),"final w",ws, "d:",["%.0e"%v for v in d[::max(1,len(d)//10)]])
    print(["%.3f"%v for v in res["us","float64"][0]])
    cmp(("us","float64"),("mx","float64")); cmp(("us","float32"),("mx","float32")); cmp(("us","float32"),("us","float64")); cmp(("mx","float32"),("mx","float64"))
