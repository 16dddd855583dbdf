//! What becomes of the gradients of max pools.

use super::*;
use crate::gradients;

fn gradient(y: &Output, x: &Output) -> Output {
    let all = gradients(std::slice::from_ref(y), std::slice::from_ref(x)).unwrap();
    all.into_iter().next().flatten().unwrap().to_dense().unwrap()
}

#[test]
fn the_gradient_of_a_pool_takes_that_of_the_relu_with_it() {
    // Windows that share pixels, and windows that do not.
    for (window, layout) in [(2i64, "NHWC"), (3, "NHWC"), (2, "NCHW")] {
        let g = Graph::new();
        let shape = [2, 4, 6, 4];
        let x = placeholder(&g, "x", shape.map(Some));
        let h = x.relu().unwrap();
        let last = layout == "NHWC";
        let sizes = |k: i64| if last { [1, k, k, 1] } else { [1, 1, k, k] };
        let pool = g.op("MaxPool").input(&h).attr("data_format", layout);
        let pool = pool.attr("ksize", sizes(window)).attr("strides", sizes(2));
        let y = pool.attr("padding", "SAME").output().unwrap();
        let loss = y.times(&y).unwrap();
        let dx = gradient(&loss, &x);
        let o = ops(&g, &[&x], &[&dx], &[]);
        assert_eq!(
            ["_MaxPoolGradOfRelu", "MaxPoolGrad", "ReluGrad"].map(|op| count(&o, op)),
            [1, 0, 0]
        );

        let feed: Vec<f32> = (0..192).map(|i| (i * 7919 % 11) as f32 - 5.0).collect();
        let feed = Tensor::from_slice(shape, &feed).unwrap();
        let results =
            [Passes::ALL, Passes::NONE].map(|passes| session(&g, passes).run(&[(&x, feed.clone())], &[&dx]).unwrap());
        assert_eq!(results[0], results[1]);

        // Somebody else sees the pool's gradient.
        let dh = gradient(&loss, &h);
        let o = ops(&g, &[&x], &[&dx, &dh], &[]);
        assert_eq!((count(&o, "MaxPoolGrad"), count(&o, "ReluGrad")), (1, 1));
    }
}
